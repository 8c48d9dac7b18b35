/** A probe tells a link that is broken from a decode side that pulls nothing for want of room. */
import { expect, it } from 'vitest';
import { PROBE_EVERY_MS } from '../../../src/flowserve/distflow/link-probe.ts';
import { TwoMachines } from './network-rig.ts';

type Machines = Awaited<ReturnType<typeof TwoMachines.open>>;

/** The target has a link by which it pulls nothing. */
const probing = (machines: Machines) => {
  const { source, target } = machines;
  const instance = target.cluster.between(0, 1);
  const { address } = source.place(0).kv;
  return { instance, look: () => target.cluster.probe(() => address) };
};

it('passes while nothing is pulled, once in a period', async () => {
  await using machines = await TwoMachines.open();
  const { instance, look } = probing(machines);
  const passed = async (count: number): Promise<void> =>
    machines.turnUntil(() => {
      look();
      return instance.probes.passed === count;
    }, 0.01);
  await passed(1);
  machines.turn();
  look();
  expect(instance.probes).toMatchObject({ passed: 1, broken: 0 });
  machines.pass(PROBE_EVERY_MS);
  await passed(2);
  expect([instance.backend.broken, instance.pending]).toEqual([null, 0]);
});

it('finds a link that has ended though nobody pulls by it, and the next pull has another', async () => {
  await using machines = await TwoMachines.open();
  const { instance, look } = probing(machines);
  await machines.turnUntil(() => {
    look();
    return instance.probes.passed === 1;
  }, 0.01);
  machines.cut();
  machines.pass(PROBE_EVERY_MS);
  await machines.turnUntil(() => {
    look();
    return instance.backend.broken !== null;
  });
  look();
  expect(instance.probes.passed).toBe(1);
  expect(machines.target.cluster.between(0, 1)).not.toBe(instance);
});

it('finds a card that answers nothing by its deadline, which says what is awaited', async () => {
  await using machines = await TwoMachines.open();
  const { instance, look } = probing(machines);
  look();
  machines.pass(5_001);
  machines.target.cluster.poll();
  look();
  expect(instance.backend.broken?.message).toBe("the network card has answered nothing for 5 s; 'words' is awaited");
});
