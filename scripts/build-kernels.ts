/**
 * Builds src/model/kernels/kernels.wasm from AssemblyScript, and the one kernel that sees two memories (copy-checksum.ts beside it); refuses a module that could disturb shared memory when it is instantiated.
 *
 * @example
 * node scripts/build-kernels.ts           # build
 * node scripts/build-kernels.ts --check   # rebuild and compare with the committed bytes
 * @module
 */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { KERNEL_NAMES } from '../src/model/kernels/kernels.ts';
import { copyChecksumFile } from './split-memories.ts';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const SOURCE = 'src/model/kernels/assembly/index.ts';
const OUTPUT = 'src/model/kernels/kernels.wasm';
const CHECKSUM = 'src/model/kernels/assembly/checksum.ts';
const TWO_MEMORIES = 'src/model/kernels/copy-checksum.ts';

/** 65,536 pages: the import then accepts a shared memory of any maximum. */
const FLAGS = [
  ...['--runtime', 'stub', '--use', 'abort=', '--noAssert'],
  ...['--importMemory', '--noExportMemory', '--sharedMemory', '--initialMemory', '1', '--maximumMemory', '65536'],
  ...['--enable', 'simd', '--enable', 'threads', '--enable', 'bulk-memory'],
  ...['--optimizeLevel', '3', '--shrinkLevel', '0', '--converge'],
];

/** Compiles one AssemblyScript file, or the text given for it, to a WebAssembly binary, with the flags of the kernels. */
export async function compileAssembly(source: string, text?: string): Promise<Uint8Array<ArrayBuffer>> {
  const asc = await import('assemblyscript/asc');
  let binary: Uint8Array | undefined;
  const { error, stderr } = await asc.main([source, '--baseDir', ROOT, '--outFile', 'out.wasm', '--disableWarning', '112', ...FLAGS], {
    readFile: (name, base) => (text !== undefined && name === source ? text : readFile(join(base, name), 'utf8').catch(() => null)),
    writeFile: (_name, contents) => {
      if (typeof contents !== 'string') binary = contents;
    },
  });
  if (error || !binary) throw new Error(`asc failed on ${source}: ${error?.message}\n${stderr.toString()}`);
  return new Uint8Array(binary);
}

const SECTION_START = 8;
const SECTION_DATA = 11;

/** The ids of a module's sections, read from its binary (WebAssembly core specification, §5.5). */
export function sectionIds(wasm: Uint8Array): number[] {
  const ids: number[] = [];
  let at = 8; // after magic and version
  while (at < wasm.length) {
    ids.push(wasm[at++] ?? 0);
    let size = 0;
    for (let shift = 0, more = true; more; shift += 7) {
      const byte = wasm[at++] ?? 0;
      size |= (byte & 0x7f) << shift;
      more = byte >= 0x80;
    }
    at += size;
  }
  return ids;
}

/** Everything that is wrong with a kernel module, in words. */
export function kernelModuleFaults(wasm: Uint8Array<ArrayBuffer>, expected: readonly string[]): string[] {
  const faults: string[] = [];
  const sections = sectionIds(wasm);
  if (sections.includes(SECTION_DATA)) faults.push('has a data section: instantiation would overwrite shared memory; keep constants in code');
  if (sections.includes(SECTION_START)) faults.push('has a start section: instantiation would run code; remove top-level statements');

  const module = new WebAssembly.Module(wasm);
  const imports = WebAssembly.Module.imports(module).map((i) => `${i.module}.${i.name} (${i.kind})`);
  if (imports.join() !== 'env.memory (memory)') faults.push(`imports ${imports.join(', ') || 'nothing'}; only env.memory (memory) is right`);

  const exported = WebAssembly.Module.exports(module).map((e) => e.name);
  for (const name of exported) if (!expected.includes(name)) faults.push(`exports ${name}, which KERNEL_NAMES in kernels.ts does not declare`);
  for (const name of expected) if (!exported.includes(name)) faults.push(`does not export ${name}, which KERNEL_NAMES in kernels.ts declares`);
  return faults;
}

async function main(): Promise<void> {
  const wasm = await compileAssembly(SOURCE);
  const faults = kernelModuleFaults(wasm, KERNEL_NAMES);
  if (faults.length > 0) throw new Error(`The kernel module\n  ${faults.join('\n  ')}`);

  const outputs: readonly (readonly [string, Uint8Array])[] = [
    [OUTPUT, wasm],
    [TWO_MEMORIES, new TextEncoder().encode(copyChecksumFile(await compileAssembly(CHECKSUM)))],
  ];
  for (const [path, bytes] of outputs) {
    const output = join(ROOT, path);
    if (process.argv.includes('--check')) {
      const committed = await readFile(output).catch(() => undefined);
      if (!committed || Buffer.compare(committed, bytes) !== 0) throw new Error(`${path} is not what its source builds; run node scripts/build-kernels.ts`);
    } else await writeFile(output, bytes);
    console.log(`${path}: ${bytes.length} bytes${process.argv.includes('--check') ? ', up to date' : ''}`);
  }
}

if (import.meta.main) await main();
