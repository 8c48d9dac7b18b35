/**
 * Copies within and between segments.
 * @module
 */

/**
 * `copy(to, from, bytes)` from memory 1 to memory 0, and `copyRows(to, from, bytes, rows, stride)`, the same for each of so many rows. JavaScript moves 3–7 GB/s here, `memory.copy` 20–100.
 * Written out because AssemblyScript knows one memory only (multi-memory: Node 24 and Deno 2.9 run it).
 */
// biome-ignore format: one section a line
const COPY_MODULE = new Uint8Array([
  0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00,
  0x01, 0x0f, 0x02, 0x60, 0x03, 0x7f, 0x7f, 0x7f, 0x00,                                  // types: (i32, i32, i32) → ()
                    0x60, 0x05, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x00,                      //        (i32, i32, i32, i32, i32) → ()
  0x02, 0x15, 0x02, 0x01, 0x6d, 0x01, 0x30, 0x02, 0x03, 0x01, 0x80, 0x80, 0x04,          // import m.0: shared memory 1…65536
                    0x01, 0x6d, 0x01, 0x31, 0x02, 0x03, 0x01, 0x80, 0x80, 0x04,          // import m.1: the same
  0x03, 0x03, 0x02, 0x00, 0x01,                                                          // two functions
  0x07, 0x13, 0x02, 0x04, 0x63, 0x6f, 0x70, 0x79, 0x00, 0x00,                            // export "copy"
                    0x08, 0x63, 0x6f, 0x70, 0x79, 0x52, 0x6f, 0x77, 0x73, 0x00, 0x01,    // export "copyRows"
  0x0a, 0x3d, 0x02,
  0x0c, 0x00, 0x20, 0x00, 0x20, 0x01, 0x20, 0x02, 0xfc, 0x0a, 0x00, 0x01, 0x0b,          // copy: memory.copy 0 1 of (to, from, bytes)
  0x2e, 0x00, 0x02, 0x40, 0x03, 0x40,                                                    // copyRows: block, loop
  0x20, 0x03, 0x45, 0x0d, 0x01,                                                          //   leave if rows = 0
  0x20, 0x00, 0x20, 0x01, 0x20, 0x02, 0xfc, 0x0a, 0x00, 0x01,                            //   memory.copy 0 1 of (to, from, bytes)
  0x20, 0x00, 0x20, 0x04, 0x6a, 0x21, 0x00,                                              //   to += stride
  0x20, 0x01, 0x20, 0x04, 0x6a, 0x21, 0x01,                                              //   from += stride
  0x20, 0x03, 0x41, 0x01, 0x6b, 0x21, 0x03,                                              //   rows -= 1
  0x0c, 0x00, 0x0b, 0x0b, 0x0b,                                                          //   again
]);

export type Copies = {
  readonly copy: (to: number, from: number, bytes: number) => void;
  readonly copyRows: (to: number, from: number, bytes: number, rows: number, stride: number) => void;
};

let compiled: WebAssembly.Module | null = null;

/** Offsets are in `target` and `source`, which may be the same memory. Traps on what lies outside. */
export function makeCopies(target: WebAssembly.Memory, source: WebAssembly.Memory): Copies {
  compiled ??= new WebAssembly.Module(COPY_MODULE);
  return new WebAssembly.Instance(compiled, { m: { 0: target, 1: source } }).exports as Copies;
}
