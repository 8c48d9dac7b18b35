import { describe, expect, it } from 'vitest';
import { serveOptionsSchema } from '../../src/api/serve.ts';
import { POD_FLAGS, PROGRAM_ONLY, SAMPLING_FLAGS, SERVE_FLAGS } from '../../src/cli/flags.ts';
import { generateOptionsSchema, podOptionsSchema } from '../../src/options.ts';

describe('flags', () => {
  it('should be the options of the embedded API, all of them but those of virtual clocks and of contexts, which end with the command’s pod, and no other', () => {
    expect([...Object.keys(POD_FLAGS), ...PROGRAM_ONLY].sort()).toEqual(Object.keys(podOptionsSchema.shape).sort());
    expect([...Object.keys(SAMPLING_FLAGS), 'context_id'].sort()).toEqual(Object.keys(generateOptionsSchema.shape).sort());
    expect(Object.keys(SERVE_FLAGS).sort()).toEqual(Object.keys(serveOptionsSchema.shape).sort());
  });
});
