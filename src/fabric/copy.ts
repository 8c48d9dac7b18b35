/**
 * Copies within and between segments.
 * @module
 */

/**
 * `copy(to, from, bytes)` from memory 1 to memory 0. JavaScript moves 3–7 GB/s here, `memory.copy` 20–100.
 * Written out because AssemblyScript knows one memory only (multi-memory: Node 24 and Deno 2.9 run it).
 */
// biome-ignore format: one section a line
const COPY_MODULE = new Uint8Array([
  0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00,
  0x01, 0x07, 0x01, 0x60, 0x03, 0x7f, 0x7f, 0x7f, 0x00,                                  // type: (i32, i32, i32) → ()
  0x02, 0x15, 0x02, 0x01, 0x6d, 0x01, 0x30, 0x02, 0x03, 0x01, 0x80, 0x80, 0x04,          // import m.0: shared memory 1…65536
                    0x01, 0x6d, 0x01, 0x31, 0x02, 0x03, 0x01, 0x80, 0x80, 0x04,          // import m.1: the same
  0x03, 0x02, 0x01, 0x00,                                                                // one function
  0x07, 0x08, 0x01, 0x04, 0x63, 0x6f, 0x70, 0x79, 0x00, 0x00,                            // export "copy"
  0x0a, 0x0e, 0x01, 0x0c, 0x00, 0x20, 0x00, 0x20, 0x01, 0x20, 0x02, 0xfc, 0x0a, 0x00, 0x01, 0x0b, // memory.copy 0 1
]);

export type Copy = (to: number, from: number, bytes: number) => void;

let compiled: WebAssembly.Module | null = null;

/** `copy(to, from, bytes)`, offsets in `target` and `source`, which may be the same memory. Traps on what lies outside. */
export function makeCopy(target: WebAssembly.Memory, source: WebAssembly.Memory): Copy {
  compiled ??= new WebAssembly.Module(COPY_MODULE);
  return new WebAssembly.Instance(compiled, { m: { 0: target, 1: source } }).exports['copy'] as Copy;
}
