/** A pod's next life begins where nobody writes any more, or in another memory, as long as there is room beside all that are left. */
import { expect, it } from 'vitest';
import { type Memories, PodMemories } from '../../src/pod/pod-memories.ts';

const BYTES = 100;
const FULL = { code: 'out_of_memory' };
const one = (): Memories => [new WebAssembly.Memory({ initial: 0, maximum: 1 })];

/** On a machine in which so many fit. */
function memoriesOf(count: number): PodMemories {
  const memories = new PodMemories((count * BYTES) / 0.75);
  memories.setSize(BYTES);
  return memories;
}

it('is that of the lost one, once, and again where whoever was to serve there has ended', () => {
  const memories = memoriesOf(1);
  const lost = one();
  memories.lose(lost, true);
  expect(memories.take()).toBe(lost);
  memories.giveUp(lost, true);
  expect(memories.take()).toBe(lost);
  memories.giveUp(lost, false);
  expect(() => memories.take()).toThrow(expect.objectContaining(FULL));
});

it('is another one beside that of the lost one, which may still write there', () => {
  const memories = memoriesOf(2);
  memories.lose(one(), false);
  expect(memories.take()).toBeUndefined();
  // It has ended, and has had its own.
  memories.giveUp(undefined, true);
  expect(memories.take()).toBeUndefined();
});

it('is none where all those that were to serve and have not ended leave no room', () => {
  const memories = memoriesOf(3);
  memories.lose(one(), false);
  expect(memories.take()).toBeUndefined();
  memories.giveUp(undefined, false);
  expect(memories.take()).toBeUndefined();
  memories.giveUp(undefined, false);
  expect(() => memories.take()).toThrow(
    expect.objectContaining({ ...FULL, message: expect.stringMatching(/3 memories .* another one of 100 bytes .* may have 300/) }),
  );
});

it('counts of those that have served the latest one only, and goes on to count the others', () => {
  const memories = memoriesOf(3);
  for (let life = 0; life < 5; life++) {
    memories.lose(one(), false);
    expect(memories.take()).toBeUndefined();
  }
  memories.giveUp(undefined, false);
  memories.lose(one(), false);
  expect(memories.take()).toBeUndefined();
  memories.giveUp(undefined, false);
  memories.lose(one(), false);
  expect(() => memories.take()).toThrow(expect.objectContaining(FULL));
});

it.each([
  [1, false],
  [2, true],
])('says where %i fit whether another one does', (count, does) => {
  expect(memoriesOf(count).fitsTwice).toBe(does);
});
