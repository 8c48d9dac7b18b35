/** A real thread is ended at any instruction, again and again; its peer, here, reads on, and its successor gets the same rings, reset. */
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { expect, it } from 'vitest';
import { checkFrame, type KillData, sendNext } from './lives.ts';
import { TRIED } from './segments.ts';
import { CONTROL_AT, twoThreads } from './two-threads.ts';

const LIVES = 8;
/** How long each is left to run once it has been heard. */
const lifeOf_ms = (life: number): number => (life * 7) % 23;
const ERRORS_AT = 1_024;

/** Ends the thread, so that it is proven gone: by its exit, where a terminated thread stops; else by its last word. */
async function end(worker: Worker, kill: { stop: () => void; isGone: () => boolean }): Promise<void> {
  if ('Deno' in globalThis) {
    kill.stop();
    while (!kill.isGone()) await sleep(1);
  }
  await worker.terminate();
}

it.each(TRIED)(
  'over %i segments, a thread that is ended at any moment leaves no torn, lost, doubled or stale frame to its peer, nor to its successor',
  async (segments) => {
    const { memory, memories, rings, control, linksOf, resetAll } = twoThreads(1_024, { slab_bytes: 2_048, segments });
    const errors = new Int32Array(memory.buffer, ERRORS_AT, 1);
    const links = linksOf(0);
    let frames = 0;
    for (let life = 0; life < LIVES; life++) {
      const data: KillData = { memories, rings, controlAt: CONTROL_AT, errorsAt: ERRORS_AT, life, epoch: control.epochOf(1) };
      const worker = new Worker(new URL('ring-kill-thread.ts', import.meta.url), { workerData: data });
      if (!('Deno' in globalThis)) await once(worker, 'online');
      const [sent, received] = [
        [0, 0],
        [0, 0],
      ];
      const exchange = (): number => {
        let heard = 0;
        links.receive((_, ring) => {
          expect(checkFrame(ring, life, received), `frame of life ${ring.header.destination} in life ${life}`).toBe(true);
          heard++;
        });
        sendNext(links, 1, life, sent);
        links.flush();
        return heard;
      };
      while (exchange() === 0) await sleep(0);
      const ends_ms = performance.now() + lifeOf_ms(life);
      while (performance.now() < ends_ms) frames += exchange();
      const staleFrames = (): number => links.counters().reduce((sum, link) => sum + link.stale, 0);
      const kill = (): Promise<void> => end(worker, { stop: () => control.stop(1), isGone: () => control.hasAcknowledged(1) });
      // Every other one is given up while it goes on sending; the rest die first, and are heard until they are given up.
      const dying = life % 2 === 0 ? kill() : null;
      frames += exchange();
      control.raiseEpoch(1);
      while (dying === null && staleFrames() === 0) expect(exchange()).toBe(0);
      await (dying ?? kill());
      expect([exchange(), exchange()]).toEqual([0, 0]);
      links.detach(1);
      resetAll();
      control.reset(1);
      links.attach(1);
    }
    expect(errors[0]).toBe(0);
    expect(frames).toBeGreaterThan(LIVES);
  },
);
