/** POST /admin/scale and /scale_elastic_ep: a pod's shape, over HTTP. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createApp } from '../../src/api/index.ts';
import { createPod, type Pod } from '../../src/index.ts';
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
