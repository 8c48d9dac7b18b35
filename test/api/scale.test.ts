/** POST /admin/scale and /scale_elastic_ep: a pod's shape, over HTTP. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createApp } from '../../src/api/index.ts';
import { createPod, type Pod } from '../../src/index.ts';
import type { VirtualPod } from '../../src/pod/virtual-pod.ts';
import type { Mail } from '../../src/runtime/cast.ts';
import { type App, ask, post, refusal } from './ask.ts';
import { FakePod } from './fake-pod.ts';

describe('routes that change the shape of a pod', () => {
  let pod: Pod;
  let app: App;
  beforeAll(async () => {
    const topology = 'moe-attention:domains=1x2,experts=2';
    pod = await createPod({ clock: 'virtual', kernels: 'hash', topology, scale_max: { attention: 4, experts: 4 } });
    app = createApp(pod);
  });
  afterAll(() => pod.close());

  it('should say what serves, and did before', async () => {
    expect(await ask(app, '/admin/scale', { attention: 4 })).toMatchObject({ attention: 4, experts: 2, was: { attention: 2, experts: 2 } });
    expect(await ask(app, '/admin/scale', { experts: 4, deadline_ms: 1_000 })).toMatchObject({ attention: 4, experts: 4, was: { attention: 4, experts: 2 } });
    expect(await ask(app, '/admin/scale', {})).toMatchObject({ attention: 4, experts: 4, was: { attention: 4, experts: 4 } });
  });

  it("should know vLLM's names", async () => {
    expect(await ask(app, '/scale_elastic_ep', { new_data_parallel_size: 3, drain_timeout: 10 })).toEqual({ message: 'Scaled to 3 data parallel engines' });
    expect((await pod.stats()).scaling?.attention.serving).toBe(3);
    expect(await ask(app, '/is_scaling_elastic_ep', {})).toEqual({ is_scaling_elastic_ep: false });
  });

  it.each([
    ['/admin/scale', { attention: 5 }, 'attention', '4 that memory was reserved for'],
    ['/admin/scale', { experts: 5 }, 'experts', '4 that memory was reserved for'],
    ['/admin/scale', { experts: 1 }, 'experts', '2 or more'],
    ['/admin/scale', { attention: 0 }, 'attention', 'must'],
    ['/admin/scale', { attention: '2' }, 'attention', 'must'],
    ['/admin/scale', { groups: 2 }, 'groups', 'there is no such field'],
    ['/admin/scale', { attention: 2, executor: 'prefill' }, 'executor', 'no task executor prefill'],
    ['/scale_elastic_ep', {}, 'new_data_parallel_size', 'is required'],
    ['/scale_elastic_ep', { new_data_parallel_size: 9 }, 'attention', '4 that memory was reserved for'],
  ])('should refuse what cannot be done, by name: %s %o', async (path, body, param, why) => {
    const before = (await pod.stats()).scaling;
    expect(await refusal(app, path, body)).toMatchObject({ status: 400, type: 'invalid_request_error', param, message: expect.stringContaining(why) });
    expect((await pod.stats()).scaling).toEqual(before);
  });

  it('should take a request with no body, whatever it is said to be, for one that names nothing', async () => {
    const fakes = createApp(new FakePod());
    for (const headers of [{}, { 'content-type': 'application/json' }, { 'content-length': '0' }])
      for (const path of ['/admin/scale', '/admin/rebalance'])
        expect((await fakes.request(path, { method: 'POST', headers, body: '' })).status, `${path} ${JSON.stringify(headers)}`).toBe(200);
    expect(await refusal(app, '/admin/scale', '{"attention":')).toMatchObject({ status: 400, message: expect.stringContaining('not valid JSON') });
    const plain = await app.request('/admin/scale', { method: 'POST', body: '{"attention":2}', headers: { 'content-type': 'text/plain' } });
    expect(plain.status).toBe(415);
  });

  it('should say whose deadline has passed, in which state, and what serves, and not that the server failed', async () => {
    const topology = 'moe-attention:domains=1x2,experts=2';
    await using slow = (await createPod({ clock: 'virtual', kernels: 'hash', topology, scale_max: { attention: 4, experts: 4 } })) as VirtualPod;
    const failures: unknown[] = [];
    const server = createApp(slow, { onError: (error) => void failures.push(error) });
    const transmit = (mail: Mail) => [{ mail, delay_ns: 20e6, keepsOrder: true }];
    slow.control.host.disturbance = { meet: () => {}, transmit, timer_ms: (_, ms) => ms, step_ns: (_, ns) => ns };
    const answer = await refusal(server, '/admin/scale', { experts: 4, deadline_ms: 50 });
    expect(answer).toMatchObject({ status: 504, param: 'deadline_ms', code: 'deadline_exceeded' });
    expect(answer.message).toMatch(
      /from 2 DP groups and 2 .* took more than 0.05 s \(deadline_ms\), which were over while .* \(placing\); 2 DP groups and 2 expert NPUs serve, as before/,
    );
    expect(failures).toEqual([]);
    expect((await slow.stats()).scaling).toMatchObject({ attention: { serving: 2 }, experts: { serving: 2 } });
  });

  it('should say on the command line’s terms too how room is kept', async () => {
    await using small = await createPod({ clock: 'virtual', kernels: 'hash' });
    expect(await refusal(createApp(small), '/admin/scale', { attention: 2 })).toMatchObject({
      status: 400,
      message: expect.stringContaining('--scale-max attention=N'),
    });
  });

  it('should refuse to move experts in a pod that does not balance them', async () => {
    expect(await refusal(app, '/admin/rebalance', { force: true })).toMatchObject({ status: 400, param: 'expert_balancing' });
    expect(await refusal(app, '/admin/rebalance', { soon: true })).toMatchObject({ status: 400, param: 'soon' });
  });

  it('should refuse a second change while one is under way', async () => {
    const answers = await Promise.all([post(app, '/admin/scale', { attention: 2 }), post(app, '/admin/scale', { attention: 4 })]);
    expect(answers.map(({ status }) => status).sort()).toEqual([200, 429]);
  });

  it('should be open to whoever is on the machine or has the key, and to nobody else', async () => {
    const fake = new FakePod();
    const open = createApp(fake, {}, { admin_open: false });
    const keyed = createApp(fake, { api_key: 'secret' }, { admin_open: false });
    for (const [path, body] of [
      ['/admin/scale', { attention: 2 }],
      ['/scale_elastic_ep', { new_data_parallel_size: 2 }],
      ['/admin/rebalance', { force: true }],
    ] as const) {
      expect(await refusal(open, path, body)).toMatchObject({ status: 403, code: 'forbidden' });
      expect((await post(keyed, path, body)).status).toBe(401);
      expect((await post(keyed, path, body, { authorization: 'Bearer wrong' })).status).toBe(401);
      expect((await post(keyed, path, body, { authorization: 'Bearer secret' })).status).toBe(200);
    }
    expect((await app.request('/admin/scale')).status).toBe(405);
  });
});
