/** A control thread that hangs is found by who opened the pod; one that is slow, or a caller that was away itself, is not taken for that. */
import { expect, it } from 'vitest';
import { ControlPage } from '../../src/fabric/control-page.ts';
import { ControlPulse, HUNG_MS_MAX, SILENT_MS_MAX } from '../../src/pod/control-pulse.ts';
import { CONTROL_THREAD } from '../../src/runtime/directory.ts';

const pageOf = (): ControlPage => new ControlPage(new WebAssembly.Memory({ initial: 2, maximum: 2, shared: true }));

it('who turns no loop is found, and trusted again when it does', () => {
  const control = pageOf();
  const pulse = new ControlPulse(control);
  for (let now_ms = 0; now_ms <= SILENT_MS_MAX; now_ms += 250) pulse.look(now_ms);
  expect(() => pulse.check()).not.toThrow();
  pulse.look(SILENT_MS_MAX + 250);
  expect(() => pulse.check()).toThrow(/control thread has not turned its loop for 3\.3 s/);
  control.turn(CONTROL_THREAD);
  pulse.look(SILENT_MS_MAX + 500);
  expect(() => pulse.check()).not.toThrow();
});

it('who turns no loop for much longer hangs, and who turns it again does not', () => {
  const control = pageOf();
  const pulse = new ControlPulse(control);
  for (let now_ms = 0; now_ms <= HUNG_MS_MAX; now_ms += 250) pulse.look(now_ms);
  expect(pulse.isHung).toBe(false);
  pulse.look(HUNG_MS_MAX + 250);
  expect([pulse.isHung, pulse.error.message]).toEqual([true, expect.stringContaining('has not turned its loop for 10.3 s')]);
  control.turn(CONTROL_THREAD);
  pulse.look(HUNG_MS_MAX + 500);
  expect(pulse.isHung).toBe(false);
});

it('a caller that was away holds little of that against it', () => {
  const pulse = new ControlPulse(pageOf());
  for (const now_ms of [0, 250, 60_000, 60_250]) pulse.look(now_ms);
  expect(() => pulse.check()).not.toThrow();
});
