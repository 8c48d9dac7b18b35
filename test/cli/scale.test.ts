/** `minipod scale` against a server. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type ApiServer, serve } from '../../src/api/index.ts';
import { createPod, type Pod } from '../../src/index.ts';
import { jsonLines, minipod } from './command.ts';

describe('minipod scale', () => {
  const KEY = 'secret';
  let pod: Pod;
  let server: ApiServer;
  beforeAll(async () => {
    const topology = 'moe-attention:domains=1x2,experts=2';
    pod = await createPod({ clock: 'virtual', kernels: 'hash', topology, scale_max: { attention: 4, experts: 4 } });
    server = await serve({ pod, port: 0, api_key: KEY });
  });
  afterAll(async () => {
    await server.close();
    await pod.close();
  });

  it('should change what serves, and say so in words or as JSON; what cannot be done is refused with the reason', async () => {
    const flags = ['--url', server.url, '--api-key', KEY];
    const text = await minipod(['scale', ...flags, '--attention', '4']);
    expect(text).toMatchObject({ code: 0, stderr: '' });
    expect(text.stdout).toMatch(/^4 DP groups and 2 expert NPUs serve; before, 2 DP groups and 2 expert NPUs did\. It took \d+\.\d ms\.\n$/);
    const [json, many, keyless] = await Promise.all([
      minipod(['scale', ...flags, '--experts', '4', '--deadline-ms', '5000', '--json']),
      minipod(['scale', ...flags, '--attention', '5']),
      minipod(['scale', '--url', server.url, '--attention', '2']),
    ]);
    expect(json).toMatchObject({ code: 0, stderr: '' });
    const [changed] = jsonLines(json.stdout);
    expect(changed).toEqual({ attention: 4, experts: 4, was: { attention: 4, experts: 2 }, duration_ms: expect.any(Number) });
    expect(many.code).toBe(1);
    expect(many.stderr).toContain('attention: 5 DP groups are more than the 4 that memory was reserved for at start (scale_max)');
    expect(many.stderr).not.toContain('{');
    expect(keyless.code).not.toBe(0);
    expect(keyless.stderr).toContain('--api-key');
    expect(await minipod(['scale', ...flags])).toMatchObject({ code: 0, stderr: '', stdout: '4 DP groups and 4 expert NPUs serve.\n' });
  });
});
