import { describe, expect, it } from 'vitest';
import { createMachine } from 'xstate';
import { started } from '../../../src/protocol/constructors.ts';
import { MachineHost } from '../../../src/runtime/xstate/machine-host.ts';

describe('a machine whose states lead in a circle', () => {
  it('fails, at its start or on a message, rather than keep its thread for ever', () => {
    const host = new MachineHost();
    const states = { a: { always: 'b' }, b: { always: 'a' }, rest: { on: { STARTED: 'a' } } };
    const circle = createMachine({ initial: 'a', states });
    expect(() => host.start(circle, undefined, () => {})).toThrow('lead in a circle');
    const later = createMachine({ initial: 'rest', states });
    const snapshot = host.start(later, undefined, () => {});
    expect(() => host.deliver(later, snapshot, started(), () => {})).toThrow('lead in a circle');
  });
});

describe('a host that acts within a transition', () => {
  it('fails rather than take one actor for another, and goes on after', () => {
    const host = new MachineHost();
    const machine = createMachine({ initial: 'a', states: { a: { on: { STARTED: 'b' } }, b: { entry: 'send', on: { STARTED: 'a' } } } });
    const [one, other] = [host.start(machine, undefined, () => {}), host.start(machine, undefined, () => {})];
    const deliverWithin = (): unknown => host.deliver(machine, one, started(), () => host.deliver(machine, other, started(), () => {}));
    const startWithin = (): unknown => host.deliver(machine, one, started(), () => host.start(machine, undefined, () => {}));
    for (const act of [deliverWithin, startWithin]) expect(act).toThrow('within a transition of it');
    expect(host.deliver(machine, one, started(), () => {}).snapshot.value).toBe('b');
  });
});
