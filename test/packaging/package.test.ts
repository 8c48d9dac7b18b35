/** What a user gets: the package packed, installed into an empty folder, and used from there. @module */
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readmeExample } from '../examples/readme-example.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
/** The Node of these tests comes first, whatever the machine has. `npm test` checks the same types by itself: the build that npm runs before it packs does not. */
const env = { ...process.env, PATH: `${dirname(process.execPath)}${delimiter}${process.env['PATH']}`, UNCHECKED: '1' };

let folder: string;
let packed: readonly string[];

async function run(command: string, args: readonly string[], cwd = folder): Promise<string> {
  try {
    return (await promisify(execFile)(command, args, { cwd, env })).stdout;
  } catch (error) {
    const { stdout, stderr } = error as { stdout: string; stderr: string };
    throw new Error(`${command} ${args.join(' ')}\n${stdout}${stderr}`, { cause: error });
  }
}

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'minipod-package-'));
  const [pack] = JSON.parse((await run('npm', ['pack', '--json', '--silent', '--pack-destination', folder], ROOT)).replace(/^[^[]*/, '')) as {
    filename: string;
    files: { path: string }[];
  }[];
  packed = pack?.files.map(({ path }) => path) ?? [];
  writeFileSync(join(folder, 'package.json'), JSON.stringify({ name: 'consumer', private: true, type: 'module' }));
  await run('npm', ['install', '--prefer-offline', '--no-audit', '--no-fund', `./${pack?.filename}`]);
}, 120_000);

afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe('the package', () => {
  it('should hold what is needed and nothing else', () => {
    expect(packed).toEqual(expect.arrayContaining(['README.md', 'LICENSE', 'package.json', 'bin/minipod.js', 'dist/src/index.js', 'dist/src/index.d.ts']));
    expect(packed).toContain('dist/src/model/kernels/kernels.wasm');
    expect(packed.filter((path) => path.startsWith('models/')).map((path) => path.split('/')[1])).toContain('tiny-deepseek-v3');
    expect(packed.filter((path) => !/^(README\.md|LICENSE|package\.json|bin\/|models\/|dist\/(src|actors)\/.*\.(js|d\.ts|wasm)$)/.test(path))).toEqual([]);
  });

  it('should be a command', async () => {
    const story = await run(join(folder, 'node_modules/.bin/minipod'), ['generate', 'Once upon a time', '--max-tokens', '40', '--npus', '2', '--workers', '2']);
    expect(story.length).toBeGreaterThan(60);
  });

  it("should run the README's example as it stands", async () => {
    writeFileSync(join(folder, 'example.ts'), readmeExample());
    expect((await run(process.execPath, ['example.ts'])).length).toBeGreaterThan(50);
  });

  it('should serve over HTTP', async () => {
    writeFileSync(
      join(folder, 'http.ts'),
      `import { createPod } from 'minipod';
       import { serve } from 'minipod/api';
       await using pod = await createPod();
       const server = await serve({ pod, port: 0 });
       const headers = { 'content-type': 'application/json' };
       const response = await fetch(server.url + '/v1/completions', { method: 'POST', headers, body: JSON.stringify({ prompt: 'Once', max_tokens: 3, ignore_eos: true }) });
       console.log(response.status, (await response.json()).usage.completion_tokens);
       await server.close();`,
    );
    expect(await run(process.execPath, ['http.ts'])).toBe('200 3\n');
  });

  it('should type-check in a strict consumer that checks libraries too', async () => {
    symlinkSync(join(ROOT, 'node_modules/@types'), join(folder, 'node_modules/@types'));
    const types = `import { type Chunk, createPod, type GenerateOptions, listModels, MinipodError, type Pod } from 'minipod';
       import { type ApiServer, createApp, serve } from 'minipod/api';
       export const options: GenerateOptions = { max_tokens: 3, stop: 'x' };
       export async function use(): Promise<Chunk[]> {
         await using pod: Pod = await createPod({ npus: 2, onProgress: ({ loaded_bytes }) => console.log(loaded_bytes) });
         const server: ApiServer = await serve({ pod, port: 0 });
         const chunks: Chunk[] = [];
         for await (const chunk of pod.generate('x', options)) chunks.push(chunk);
         console.log(server.url, listModels(), createApp(pod), new MinipodError('closed', '').code);
         // @ts-expect-error: an option that does not exist
         pod.generate('x', { max_token: 3 });
         return chunks;
       }`;
    writeFileSync(join(folder, 'types.ts'), types);
    const compilerOptions = { module: 'NodeNext', target: 'ES2022', strict: true, skipLibCheck: false, noEmit: true, types: ['node'] };
    writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions, include: ['types.ts', 'example.ts'] }));
    expect(await run(process.execPath, [join(ROOT, 'node_modules/typescript/bin/tsc'), '-p', '.'])).toBe('');
  });
});
