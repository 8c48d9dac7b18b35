/** A pod that fails, since its workers die again and again: its thread ends with the reason, and what was recorded is whole. */
import { Worker } from 'node:worker_threads';
import { expect, it } from 'vitest';
import { traceFolder } from '../trace/files.ts';
import { expectWhole } from '../trace/whole-run.ts';

it('leaves a trace that ends with what the pod failed of', async () => {
  using folder = traceFolder();
  const path = folder.file('failed.trace');
  const thread = new Worker(new URL('./failing-pod.ts', import.meta.url), { workerData: path });
  const error = await new Promise<Error>((resolve) => thread.once('error', resolve));
  expect(error.message).toMatch(/workers died 6 times within 10 s/);
  const losses = expectWhole(path).filter(({ message }) => message?.type === 'NPU_LOST');
  expect(losses.length).toBeGreaterThanOrEqual(6);
});
