// The stop word: how a worker leaves a kernel that is under way.
//
// DESIGN: "Workers poll a stop word in every loop, kernels between tiles". A thread cannot be ended from outside (Deno's terminate() does not stop a
// running one), so a stop is cooperative, and takes as long as the longest stretch without a poll. A worker looks between its kernels; a matmul of a
// real checkpoint runs for seconds. So every kernel whose work has no small bound reads the word between tiles, panels and blocks of rows: each
// stretch is under a millisecond at the sizes of real models, and the read costs less than can be measured.
//
// A stopped kernel leaves by `unreachable`: a trap unwinds any depth of calls and needs no result that every caller would have to test. What it had
// written so far stays, half done; the step is lost with it, and nobody reads it. The instance keeps no other state, and can be called again.
//
// The word lies in the segment that the kernels are instantiated over (AssemblyScript knows one memory): the control page at the start of each
// segment mirrors it.

// Where it reads, it also advances the thread's progress word, on a line behind the stop word's: a worker that is amid a long step answers no question, and whoever
// asks sees by this that it does not hang. No other thread writes that word, so it is no atomic addition.

const STOPPED = 1;

/** From the stop word: fabric/control-page.ts says so (PROGRESS_BEHIND_STOP_BYTES). */
const PROGRESS: usize = 60;

/** Rows in a block: work of microseconds, beside which a poll is nothing. */
const ROW_BLOCK = 16;

/** Bytes of one array in a stretch of work along it. */
export const STRETCH_BYTES: usize = 65536;

let stopWord: usize = 0;

/** Where the stop word lies, a multiple of 4; 0: there is none, whatever lies at address 0. A word that cannot be read traps here, not amid a step. */
export function setStopWord(address: usize): void {
  if (address) atomic.load<i32>(address);
  stopWord = address;
}

// @ts-ignore: decorator
@inline
export function pollStop(): void {
  if (!stopWord) return;
  store<i32>(stopWord, load<i32>(stopWord, PROGRESS) + 1, PROGRESS);
  if (atomic.load<i32>(stopWord) == STOPPED) unreachable();
}

/** Polls at the first row of each block. */
// @ts-ignore: decorator
@inline
export function pollStopAt(row: i32): void {
  if ((row & (ROW_BLOCK - 1)) == 0) pollStop();
}
