/**
 * The one kernel that sees two memories: copyChecksum between segments (src/model/kernels/copy-checksum.ts), made from the same AssemblyScript as within one.
 *
 * AssemblyScript knows one memory only. So its module is taken as text, loads are pointed at one memory and stores at another, and the text is assembled again.
 * @module
 */
import binaryen from 'assemblyscript/binaryen';

const ONE_MEMORY = /\(import "env" "memory" \(memory \S+ (1 65536 shared)\)\)/;
const LINE_CHARACTERS = 120;

/** The text of the TypeScript file that carries the module. @throws where the compiler's text is not what this knows how to change. */
export function copyChecksumFile(wasm: Uint8Array): string {
  const single = binaryen.readBinary(wasm);
  single.setFeatures(binaryen.Features.All);
  const text = single.emitText();
  if (!ONE_MEMORY.test(text) || /memory\.(copy|fill)|atomic/.test(text))
    throw new Error('assembly/checksum.ts compiles to what cannot be split over two memories');
  const split = text
    .replace(ONE_MEMORY, '(import "env" "target" (memory $target $1)) (import "env" "source" (memory $source $1))')
    .replace(/\((v128|i32)\.load\b/g, '($1.load $$source')
    .replace(/\((v128|i32)\.store\b/g, '($1.store $$target')
    .replace(/\(export "checksum" \(func \S+\)\)/, '');
  const module = binaryen.parseText(split);
  module.setFeatures(binaryen.Features.All);
  module.runPasses(['remove-unused-module-elements']);
  if (module.validate() !== 1) throw new Error('assembly/checksum.ts split over two memories is not valid');
  const base64 = Buffer.from(module.emitBinary()).toString('base64');
  const lines = base64.match(new RegExp(`.{1,${LINE_CHARACTERS}}`, 'g')) ?? [];
  return `/** Made by scripts/build-kernels.ts from assembly/checksum.ts: loads from memory \`source\`, stores to memory \`target\`. @module */

export const COPY_CHECKSUM_MODULE =
${lines.map((line) => `  '${line}'`).join(' +\n')};
`;
}
