import { describe, expect, it } from 'vitest';
import { createMachine } from 'xstate';
import { started } from '../../src/protocol/constructors.ts';
import { MachineHost } from '../../src/runtime/machine-host.ts';

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
