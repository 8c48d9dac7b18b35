/** Copies of the sources that differ from them in one place at a time, and what their `minipod` says: for bugs that are planted, and machines that are changed. */
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Ended, start } from './command.ts';

export const ROOT = fileURLToPath(new URL('../..', import.meta.url));

/** In `file`, from the root, what reads `from` is to read `to`. */
export type Change = { readonly file: string; readonly from: string; readonly to: string };

/** A text file's changes: blocks of one line that says what it is of, then lines after "- " and after "+ ". Lines after "#" are the reader's. */
export function readChanges(file: URL): readonly { readonly head: string; readonly from: string; readonly to: string }[] {
  return readFileSync(file, 'utf8')
    .replaceAll(/^#.*\n/gm, '')
    .trim()
    .split(/\n{2,}/)
    .map((block) => {
      const [head = '', ...lines] = block.split('\n');
      const marked = (mark: string): string => lines.flatMap((line) => (line.startsWith(`${mark} `) ? [line.slice(2)] : [])).join('\n');
      const [from, to] = [marked('-'), marked('+')];
      if (from === '' || to === '' || from === to || lines.some((line) => !/^[-+] /.test(line)))
        throw new Error(`${file.pathname}: a block is one line, then lines after "- " and lines after "+ ", not:\n${block}`);
      return { head, from, to };
    });
}

/** Its file says once what is to be changed: else it is not clear what is. */
export const isChangeable = (root: string, { file, from }: Change): boolean => readFileSync(join(root, file), 'utf8').split(from).length === 2;

export class SourceCopy implements Disposable {
  readonly root = mkdtempSync(join(tmpdir(), 'minipod-sources-'));

  constructor() {
    for (const name of ['actors', 'src', 'bin', 'package.json']) cpSync(join(ROOT, name), join(this.root, name), { recursive: true });
    for (const name of ['node_modules', 'models']) symlinkSync(join(ROOT, name), join(this.root, name));
  }

  /** Does something while the copy is changed. */
  async changed<Result>(change: Change, act: () => Promise<Result>): Promise<Result> {
    if (!isChangeable(this.root, change)) throw new Error(`${change.file} does not say once: ${change.from}`);
    const path = join(this.root, change.file);
    const source = readFileSync(path, 'utf8');
    writeFileSync(
      path,
      source.replace(change.from, () => change.to),
    );
    try {
      return await act();
    } finally {
      writeFileSync(path, source);
    }
  }

  minipod(...args: readonly string[]): Promise<Ended> {
    return start(args, '', { NODE_COMPILE_CACHE: join(this.root, 'compiled') }, this.root).ended;
  }

  [Symbol.dispose](): void {
    rmSync(this.root, { recursive: true, force: true });
  }
}
