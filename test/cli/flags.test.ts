import { Command } from 'commander';
import { describe, expect, it } from 'vitest';
import { serveOptionsSchema } from '../../src/api/serve.ts';
import { addFlags, POD_FLAGS, PROGRAM_ONLY, SAMPLING_FLAGS, SERVE_FLAGS } from '../../src/cli/flags.ts';
import { generateOptionsSchema, podOptionsSchema } from '../../src/options/options.ts';

describe('flags', () => {
  it('should be the options of the embedded API, all of them but those of virtual clocks and of contexts, which end with the command’s pod, and no other', () => {
    expect([...Object.keys(POD_FLAGS), ...PROGRAM_ONLY].sort()).toEqual(Object.keys(podOptionsSchema.shape).sort());
    // What parses a reply is a conversation's, which the command has none of.
    expect([...Object.keys(SAMPLING_FLAGS), 'context_id', 'reasoning_parser', 'tool_call_parser'].sort()).toEqual(
      Object.keys(generateOptionsSchema.shape).sort(),
    );
    expect(Object.keys(SERVE_FLAGS).sort()).toEqual(Object.keys(serveOptionsSchema.shape).sort());
  });

  it('should say of each what it is if nothing is said, once', () => {
    const command = new Command();
    addFlags(command, 'Pod:', POD_FLAGS, podOptionsSchema.shape);
    addFlags(command, 'Server:', SERVE_FLAGS, serveOptionsSchema.shape);
    const twice = command.options.filter(({ description }) => description.split('default').length > 2);
    expect(twice.map(({ description }) => description)).toEqual([]);
    expect(command.options.filter(({ description }) => description.endsWith('(default: by role)')).map(({ long }) => long)).toEqual(['--load-balancing']);
  });

  it('should be refused in words', () => {
    const command = new Command().exitOverride().configureOutput({ writeErr: () => {} });
    addFlags(command, 'Pod:', POD_FLAGS, podOptionsSchema.shape);
    expect(() => command.parse(['--kv-blocks', '0'], { from: 'user' })).toThrow(/It must be at least 1, not 0\.$/);
    expect(() => command.parse(['--kv-fabric', 'x'], { from: 'user' })).toThrow(/It must be one of "memory", "tcp", not "x"\.$/);
    expect(() => command.parse(['--scale-max', 'attention=2', '--scale-max', 'attention=4'], { from: 'user' })).toThrow(/It names attention twice\.$/);
  });

  it('should add up where pairs are given one by one', () => {
    const command = new Command().exitOverride();
    addFlags(command, 'Pod:', POD_FLAGS, podOptionsSchema.shape);
    command.parse(['--scale-max', 'attention=2', '--scale-max', 'experts=4'], { from: 'user' });
    expect(command.opts()['scaleMax']).toEqual({ attention: 2, experts: 4 });
  });
});
