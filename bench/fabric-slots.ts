/**
 * 64-byte slots from thread to thread, published and taken in batches, against postMessage of the same words.
 * @module
 */
import { SlotConsumer, SlotProducer } from '../src/fabric/slots.ts';
import { type Duo, PLACE, type Side } from './fabric-duo.ts';
import { atLeast, digits, medianRatio, takeTurns } from './fabric-report.ts';
import { streamRate } from './fabric-streams.ts';
import { median, printTable } from './harness.ts';

/** Words written to each slot and summed there, slots a slice, and the goals: millions a second, and times postMessage (for one word it is said). */
const CASES = [
  { words: 1, slots: 4_000_000, goal: 100, timesGoal: 150 },
  { words: 8, slots: 1_000_000, goal: 25, timesGoal: null },
  { words: 16, slots: 500_000, goal: 12, timesGoal: null },
] as const;
const BATCH = 64;
const POSTS = 10_000;
const WARM_ROUNDS = 3;
/** Short slices before all others: a function is compiled anew when it is called often, not when it runs long. */
const WARM_SLICES = { slices: 60, slots: 60_000 } as const;

type Slice = { readonly words: number; readonly slots: number };

const sumOf = ({ words, slots }: Slice): number => {
  let sum = 0;
  for (let slot = 0; slot < slots; slot++) for (let word = 0; word < words; word++) sum = (sum + slot + word) | 0;
  return sum;
};

function write(producer: SlotProducer, { words, slots }: Slice): void {
  const memory = producer.slots;
  for (let slot = 0; slot < slots; ) {
    const taken = producer.claim(Math.min(BATCH, slots - slot));
    const end = slot + taken;
    for (let at = producer.at; slot < end; slot++, at += 16) for (let word = 0; word < words; word++) memory[at + word] = slot + word;
    producer.publish();
  }
}

function read(consumer: SlotConsumer, { words, slots }: Slice): number {
  const memory = consumer.slots;
  let sum = 0;
  for (let left = slots; left > 0; ) {
    const taken = consumer.take(BATCH);
    left -= taken;
    for (let at = consumer.at, end = at + taken * 16; at < end; at += 16)
      for (let word = 0; word < words; word++) sum = (sum + (memory[at + word] as number)) | 0;
    consumer.release();
  }
  return sum;
}

/** The reader's half: the sum of what came. */
export function readSlots(side: Side, slice: Slice): number {
  const consumer = new SlotConsumer(side.memory, PLACE.there);
  side.meet();
  const sum = read(consumer, slice);
  side.meet();
  return sum;
}

async function slotRate(duo: Duo, slice: Slice): Promise<number> {
  const producer = new SlotProducer(duo.memory, PLACE.there);
  const reading = duo.there<number>('readSlots', slice);
  duo.meet();
  const start = performance.now();
  write(producer, slice);
  duo.meet();
  const took_ms = performance.now() - start;
  if ((await reading) !== sumOf(slice)) throw new Error('the reader has another sum than the writer');
  return slice.slots / took_ms / 1000;
}

/** The cheapest thing that postMessage takes for so many words. */
const posted = (words: number) => (index: number) => (words === 1 ? index : Int32Array.from({ length: words }, (_, word) => index + word));

export async function measureSlots(duo: Duo): Promise<unknown> {
  const rows = [];
  for (const { words, slots, goal, timesGoal } of CASES) {
    for (let slice = 0; slice < WARM_SLICES.slices; slice++) await slotRate(duo, { words, slots: WARM_SLICES.slots });
    const came = await takeTurns(
      { slots: () => slotRate(duo, { words, slots }), post: () => streamRate(duo, posted(words), POSTS, 'MessageChannel') },
      WARM_ROUNDS,
    );
    rows.push({ words, slots_M_s: median(came.slots), postMessage_M_s: median(came.post), times: medianRatio(came.slots, came.post), goal, timesGoal });
  }
  printTable(
    `64-byte slots, thread to thread, published and taken ${BATCH} at a time: M/s`,
    ['words written and summed', 'slots', 'goal', 'postMessage', 'times', 'goal'],
    rows.map((row) => [
      String(row.words),
      digits(row.slots_M_s),
      atLeast(row.goal, row.slots_M_s),
      digits(row.postMessage_M_s),
      digits(row.times),
      atLeast(row.timesGoal, row.times),
    ]),
  );
  return rows;
}
