import { describe, expect, it } from 'vitest';
import { createApp } from '../../src/api/index.ts';
import { MinipodError } from '../../src/protocol/errors.ts';
import { type App, ask, post } from './ask.ts';
import { FakePod } from './fake-pod.ts';

/** Prometheus' text format, strictly: series → value, and name → type. */
function parseMetrics(text: string): { series: Map<string, number>; types: Map<string, string> } {
  const series = new Map<string, number>();
  const types = new Map<string, string>();
  for (const line of text.split('\n')) {
    if (line === '' || line.startsWith('# HELP ')) continue;
    const type = /^# TYPE (\S+) (counter|gauge|histogram)$/.exec(line);
    if (type !== null) {
      types.set(type[1] ?? '', type[2] ?? '');
      continue;
    }
    const sample = /^([a-zA-Z_:][\w:]*(?:\{(?:\w+="(?:[^"\\]|\\.)*",?)*\})?) (\S+)$/.exec(line);
    if (sample === null) throw new Error(`not a sample: ${line}`);
    // prom-client puts its default label first or last, as the metric has it.
    series.set((sample[1] ?? '').replace(/(model_name="[^"]*"),(.+)\}/, '$2,$1}'), Number(sample[2]));
  }
  return { series, types };
}

const scrape = async (app: App) => {
  const response = await app.request('/metrics');
  expect(response.status).toBe(200);
  expect(response.headers.get('content-type')).toContain('text/plain; version=0.0.4');
  return parseMetrics(await response.text());
};

const HISTOGRAMS = [
  ...['time_to_first_token_seconds', 'inter_token_latency_seconds', 'time_per_output_token_seconds', 'request_time_per_output_token_seconds'],
  ...[
    'e2e_request_latency_seconds',
    'request_queue_time_seconds',
    'request_inference_time_seconds',
    'request_prefill_time_seconds',
    'request_decode_time_seconds',
  ],
  ...[
    'request_prompt_tokens',
    'request_prefill_kv_computed_tokens',
    'request_generation_tokens',
    'request_max_num_generation_tokens',
    'request_params_max_tokens',
    'request_params_n',
  ],
];
const GAUGES = ['num_requests_running', 'num_requests_waiting', 'kv_cache_usage_perc', 'cache_config_info'];
const COUNTERS = [
  'prompt_tokens_total',
  'generation_tokens_total',
  'prefix_cache_queries_total',
  'prefix_cache_hits_total',
  'num_preemptions_total',
  'request_success_total',
];

describe('metrics', () => {
  it("should have vLLM's names, types and label from the start", async () => {
    const { series, types } = await scrape(createApp(new FakePod()));
    for (const [type, names] of [
      ['histogram', HISTOGRAMS],
      ['gauge', GAUGES],
      ['counter', COUNTERS],
    ] as const)
      for (const name of names) expect([name, types.get(`vllm:${name}`)]).toEqual([name, type]);
    expect([...series.keys()].every((key) => key.includes('model_name="fake"'))).toBe(true);
    expect(series.get('vllm:num_requests_running{engine="0",model_name="fake"}')).toBe(0);
    expect(series.get('vllm:request_success_total{engine="0",finished_reason="abort",model_name="fake"}')).toBe(0);
    // What ended before any engine had answered has none.
    expect(series.get('vllm:request_success_total{finished_reason="abort",model_name="fake"}')).toBe(0);
    expect(series.get('vllm:cache_config_info{engine="0",num_gpu_blocks="100",block_size="16",model_name="fake"}')).toBe(1);
    expect(series.get('vllm:time_to_first_token_seconds_bucket{le="0.001",engine="0",model_name="fake"}')).toBe(0);
    expect(series.get('vllm:e2e_request_latency_seconds_bucket{le="480",engine="0",model_name="fake"}')).toBe(0);
  });

  it('should count what was served', async () => {
    const pod = new FakePod();
    const app = createApp(pod);
    await ask(app, '/v1/completions', { prompt: [65, 66, 67], max_tokens: 8, n: 2, ignore_eos: true });
    await (await post(app, '/v1/completions', { prompt: [65, 66, 67], max_tokens: 8, ignore_eos: true, stream: true })).text();
    const { series } = await scrape(app);
    const value = (name: string, labels = '') => series.get(`vllm:${name}{engine="0",${labels}model_name="fake"}`);
    expect(value('prompt_tokens_total')).toBe(6);
    expect(value('generation_tokens_total')).toBe(24);
    expect(value('request_success_total', 'finished_reason="length",')).toBe(2);
    for (const name of HISTOGRAMS)
      expect([name, value(`${name}_count`)]).toEqual([
        name,
        { inter_token_latency_seconds: 21, time_per_output_token_seconds: 21, request_generation_tokens: 3 }[name] ?? 2,
      ]);
    expect(value('request_generation_tokens_sum')).toBe(24);
    expect(value('e2e_request_latency_seconds_sum')).toBeGreaterThanOrEqual(value('time_to_first_token_seconds_sum') ?? 1);
  });

  it('should count for prefill and for decode what each is answerable for', async () => {
    const app = createApp(new FakePod({ disaggregated: true }));
    await ask(app, '/v1/completions', { prompt: [65, 66, 67], max_tokens: 8, ignore_eos: true });
    const { series } = await scrape(app);
    const count = (name: string, engine: number) => series.get(`vllm:${name}_count{engine="${engine}",model_name="fake"}`);
    for (const name of ['time_to_first_token_seconds', 'request_queue_time_seconds', 'request_prefill_time_seconds', 'request_prompt_tokens'])
      expect([name, count(name, 0), count(name, 1)]).toEqual([name, 1, 0]);
    for (const name of ['request_decode_time_seconds', 'e2e_request_latency_seconds', 'request_generation_tokens'])
      expect([name, count(name, 0), count(name, 1)]).toEqual([name, 0, 1]);
    expect([count('inter_token_latency_seconds', 0), count('inter_token_latency_seconds', 1)]).toEqual([0, 7]);
  });

  it('should tell of a first token when it comes, whatever becomes of its request', async () => {
    const app = createApp(new FakePod({ fail_after: { chunks: 2, error: new MinipodError('worker_failed', 'worker 2 died') } }));
    await (await post(app, '/v1/completions', { prompt: [65, 66, 67], max_tokens: 8, n: 2, ignore_eos: true, stream: true })).text();
    const { series } = await scrape(app);
    const count = (name: string) => series.get(`vllm:${name}_count{engine="0",model_name="fake"}`);
    expect([count('time_to_first_token_seconds'), count('e2e_request_latency_seconds')]).toEqual([1, 0]);
  });

  it('should show what runs at the moment of the scrape, and count no twice', async () => {
    const pod = new FakePod({ delay_ms: 20 });
    const app = createApp(pod);
    const running = post(app, '/v1/completions', { prompt: 'x', max_tokens: 5, ignore_eos: true });
    await expect.poll(() => pod.running).toBe(1);
    const scrapes = await Promise.all([scrape(app), scrape(app)]);
    for (const { series } of scrapes) {
      expect(series.get('vllm:num_requests_running{engine="0",model_name="fake"}')).toBe(1);
      expect(series.get('vllm:kv_cache_usage_perc{engine="0",model_name="fake"}')).toBe(0.01);
      expect(series.get('vllm:prompt_tokens_total{engine="0",model_name="fake"}')).toBe(2);
    }
    await running;
  });

  it('should count drafts as vLLM does', async () => {
    const { series } = await scrape(createApp(new FakePod()));
    const drafts = [...series].filter(([key]) => key.includes('spec_decode')).map(([key, value]) => `${key.replace(',model_name="fake"', '')} ${value}`);
    expect(drafts).toEqual([
      'vllm:spec_decode_num_drafts_total{engine="0"} 4',
      'vllm:spec_decode_num_draft_tokens_total{engine="0"} 9',
      'vllm:spec_decode_num_accepted_tokens_total{engine="0"} 5',
      'vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",position="0"} 3',
      'vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",position="1"} 2',
    ]);
  });

  it('should show memory, links and XCCL under names of its own', async () => {
    const { series, types } = await scrape(createApp(new FakePod()));
    const own = [...series].filter(([key]) => key.startsWith('minipod:')).map(([key, value]) => `${key.replace('model_name="fake"', '…')} ${value}`);
    const link = 'from="caller",to="control",lane="data"';
    expect(own).toEqual([
      'minipod:dp_group_info{engine="0",task_executor="0",role="colocated",npus="0",…} 1',
      'minipod:memory_regions{state="held",…} 2',
      'minipod:memory_regions{state="free",…} 0',
      'minipod:memory_regions{state="quarantined",…} 1',
      'minipod:memory_region_bytes{state="held",…} 700',
      'minipod:memory_region_bytes{state="free",…} 0',
      'minipod:memory_region_bytes{state="quarantined",…} 300',
      `minipod:link_frames_total{${link},…} 7`,
      `minipod:link_bytes_total{${link},…} 90`,
      `minipod:link_received_frames_total{${link},…} 6`,
      `minipod:link_received_bytes_total{${link},…} 80`,
      `minipod:link_full_total{${link},…} 2`,
      `minipod:link_wakes_total{${link},…} 5`,
      `minipod:link_stale_total{${link},…} 3`,
      `minipod:link_waiting{${link},…} 1`,
      `minipod:link_stalled_seconds{${link},…} 1.5`,
      `minipod:link_ring_free_bytes{${link},…} 64`,
      `minipod:link_slab_free_bytes{${link},…} 32`,
      // The samples as the pod has counted them: none under 1 µs, 2 under 2 µs, 3 more under 4 µs, 1 above.
      `minipod:link_latency_seconds_bucket{le="0.000001",${link},…} 0`,
      `minipod:link_latency_seconds_bucket{le="0.000002",${link},…} 2`,
      `minipod:link_latency_seconds_bucket{le="0.000004",${link},…} 5`,
      `minipod:link_latency_seconds_bucket{le="+Inf",${link},…} 6`,
      `minipod:link_latency_seconds_sum{${link},…} 0.000014`,
      `minipod:link_latency_seconds_count{${link},…} 6`,
      'minipod:npu_info{npu="0",kind="attention",worker="0",…} 1',
      'minipod:npu_lost{npu="0",…} 0',
      'minipod:kv_blocks_held{npu="0",…} 2',
      'minipod:kv_blocks_held_max{npu="0",…} 3',
      'minipod:blocks_mapped_out{npu="0",tier="hbm",…} 0',
      'minipod:blocks_mapped_out{npu="0",tier="dram",…} 0',
      'minipod:xccl_fields_written_total{npu="0",…} 40',
      'minipod:xccl_fields_stale_total{npu="0",…} 1',
      'minipod:xccl_dispatches_written_total{npu="0",…} 21',
      'minipod:xccl_dispatches_served_total{npu="0",…} 19',
      'minipod:xccl_dispatches_refused_total{npu="0",…} 4',
      'minipod:xccl_rows_damaged_total{npu="0",…} 1',
      'minipod:xccl_pulled_bytes_total{npu="0",…} 5120',
      'minipod:xccl_reply_bytes{npu="0",…} 256',
      'minipod:xccl_reply_bytes_max{npu="0",…} 768',
      'minipod:collections_total{worker="0",moment="chosen",…} 3',
      'minipod:collections_total{worker="0",moment="any",…} 2',
      'minipod:collection_seconds_total{worker="0",…} 0.009',
      'minipod:collection_seconds_max{worker="0",…} 0.004',
      'minipod:npu_decode_step_seconds_bucket{le="0.000001",npu="0",…} 0',
      'minipod:npu_decode_step_seconds_bucket{le="0.000002",npu="0",…} 0',
      'minipod:npu_decode_step_seconds_bucket{le="0.000004",npu="0",…} 3',
      'minipod:npu_decode_step_seconds_bucket{le="+Inf",npu="0",…} 4',
      'minipod:npu_decode_step_seconds_sum{npu="0",…} 0.000017',
      'minipod:npu_decode_step_seconds_count{npu="0",…} 4',
      'minipod:npu_step_gap_seconds_bucket{le="0.000001",npu="0",…} 2',
      'minipod:npu_step_gap_seconds_bucket{le="+Inf",npu="0",…} 3',
      'minipod:npu_step_gap_seconds_sum{npu="0",…} 0.0000025',
      'minipod:npu_step_gap_seconds_count{npu="0",…} 3',
      ...['given_up', 'over', 'no_spare_seat', 'control_thread'].map((verdict) => `minipod:suspicions_total{verdict="${verdict}",…} 0`),
      'minipod:control_threads_lost_total{…} 2',
      'minipod:kv_lent{engine="0",…} 2',
      'minipod:kv_expected{engine="0",…} 1',
      'minipod:distflow_num_kv_expired_reqs_total{engine="0",…} 3',
      'minipod:remote_prefix_hits_total{engine="0",…} 4',
      'minipod:remote_prefix_hits_refused_total{engine="0",…} 5',
      'minipod:remote_prefix_misses_total{engine="0",…} 6',
      'minipod:distflow_num_transfers_total{source="0",target="1",fabric="tcp",…} 6',
      'minipod:distflow_bytes_transferred_total{source="0",target="1",fabric="tcp",…} 4096',
      'minipod:distflow_wasted_bytes_total{source="0",target="1",fabric="tcp",…} 512',
      'minipod:distflow_num_failed_transfers_total{source="0",target="1",fabric="tcp",reason="refused",…} 2',
      'minipod:distflow_num_failed_transfers_total{source="0",target="1",fabric="tcp",reason="stale",…} 0',
      'minipod:distflow_link_probes_total{source="0",target="1",fabric="tcp",outcome="passed",…} 7',
      'minipod:distflow_link_probes_total{source="0",target="1",fabric="tcp",outcome="broken",…} 1',
    ]);
    expect(types.get('minipod:link_latency_seconds')).toBe('histogram');
    for (const [name, type] of types) expect([name, type === 'counter']).toEqual([name, name.endsWith('_total')]);
  });

  it('should count no link twice when scraped again', async () => {
    const app = createApp(new FakePod());
    const [, again] = [await scrape(app), await scrape(app)];
    const labels = 'from="caller",to="control",lane="data",model_name="fake"';
    for (const [name, value] of Object.entries({ frames_total: 7, received_frames_total: 6, latency_seconds_count: 6 }))
      expect([name, again.series.get(`minipod:link_${name}{${labels}}`)]).toEqual([name, value]);
  });

  it('should tell of experts where that is asked for, by expert as long as those are not too many', async () => {
    const named = async (app: App): Promise<string[]> =>
      [...(await scrape(app)).series].flatMap(([name, value]) => (name.includes('expert') ? [`${name} ${value}`] : []));
    const layer = [
      'minipod:expert_busiest_over_mean_npu{task_executor="0",layer="1",model_name="fake"} 1.2',
      'minipod:expert_map_epoch{task_executor="0",layer="1",model_name="fake"} 0',
    ];
    expect(await named(createApp(new FakePod()))).toEqual([]);
    expect(await named(createApp(new FakePod(), { expert_metrics: 'layer' }))).toEqual(layer);
    const all = createApp(new FakePod(), { expert_metrics: 'expert' });
    const tokens = [60, 10, 0, 30].map(
      (count, expert) => `minipod:expert_tokens_total{task_executor="0",layer="1",expert="${expert}",model_name="fake"} ${count}`,
    );
    expect([await named(all), await named(all)]).toEqual([
      [...layer, ...tokens],
      [...layer, ...tokens],
    ]);
    const large = new FakePod();
    const [one] = (await large.experts()).task_executors[0]?.layers ?? [];
    const layers = Array.from({ length: 4_097 }, (_, number) => ({ ...(one ?? expect.fail()), layer: number }));
    large.experts = async () => ({
      model: 'fake',
      uptime_seconds: 1,
      experts_per_layer: 4,
      top_k: 2,
      task_executors: [{ task_executor: 0, role: 'colocated', balancing: null, layers }],
    });
    const reports: unknown[] = [];
    const app = createApp(large, { expert_metrics: 'expert', onError: (error) => reports.push(error) });
    expect((await named(app)).some((line) => line.includes('expert_tokens_total{'))).toBe(false);
    await named(app);
    expect(reports.map(String)).toEqual([expect.stringContaining('16388 series, at most 16384')]);
  });

  it('should tell how the loop does that moves experts, and health that it has died', async () => {
    const pod = new FakePod();
    const app = createApp(pod);
    const { uptime_seconds } = await pod.stats();
    const loop = { executor: 2, state: 'prefetching', epoch: 8, progress: 5, last_progress_seconds: uptime_seconds - 1, stalled: false, last: null, log: [] };
    const counts = [{ change: 'rebalance', outcome: 'rolled_back', cause: 'npu_lost', count: 3 }] as const;
    const copied = { broadcast: { slots: 4, bytes: 4_096 }, pulled: { slots: 1, bytes: 1_024 }, checkpoint: { slots: 2, bytes: 2_048 }, instead: 0, why: null };
    const lost = { experts: [{ layer: 3, expert: 7 }], shared: false };
    pod.balancing = [{ ...loop, counts, copied, lost }];
    const series = [...(await scrape(app)).series].filter(([name]) => name.includes('expert'));
    const of = '{task_executor="2",model_name="fake"}';
    expect(series).toEqual([
      [`minipod:expert_balancing_last_progress_seconds${of}`, uptime_seconds - 1],
      [`minipod:expert_balancing_progress_age_seconds${of}`, 1],
      [`minipod:expert_balancing_stalled${of}`, 0],
      [`minipod:expert_balancing_map_epoch${of}`, 8],
      [`minipod:expert_balancing_progress_total${of}`, 5],
      ['minipod:expert_balancing_state{task_executor="2",state="prefetching",model_name="fake"}', 1],
      ['minipod:expert_map_changes_total{task_executor="2",change="rebalance",outcome="rolled_back",cause="npu_lost",model_name="fake"}', 3],
      ['minipod:expert_weights_copied_bytes_total{task_executor="2",way="broadcast",model_name="fake"}', 4_096],
      ['minipod:expert_weights_copied_bytes_total{task_executor="2",way="pulled",model_name="fake"}', 1_024],
      ['minipod:expert_weights_copied_bytes_total{task_executor="2",way="checkpoint",model_name="fake"}', 2_048],
      [`minipod:expert_balancing_experts_lost${of}`, 1],
    ]);
    expect((await app.request('/health')).status).toBe(200);
    const dead = { loop: 'rebalance', owner: 'expert-map/2', state: 'prefetching', period_seconds: 0.4, still_seconds: 1, stalled: true } as const;
    pod.loops = [dead, { ...dead, loop: 'heartbeat', owner: 'cluster-manager/0', state: 'term 1', still_seconds: 0.5, stalled: false }];
    const refused = await app.request('/health');
    expect(refused.status).toBe(503);
    expect((await refused.json()).error.message).toBe('The rebalance loop of expert-map/2, prefetching, has made no progress for 1.0 s.');
    const stalled = [...(await scrape(app)).series].filter(([name]) => name.startsWith('minipod:control_loop_stalled'));
    expect(stalled).toEqual([
      ['minipod:control_loop_stalled{loop="rebalance",owner="expert-map/2",model_name="fake"}', 1],
      ['minipod:control_loop_stalled{loop="heartbeat",owner="cluster-manager/0",model_name="fake"}', 0],
    ]);
  });

  it('health should tell of a lost worker whose successor does not come', async () => {
    const pod = new FakePod();
    const app = createApp(pod);
    const lost = { worker: 1, cause: 'died', reason: 'it died', successor: true, warm: false, end_ms: 2, release_ms: 1 } as const;
    // Of a successor that was lost itself, and its own, which runs.
    pod.recoveries = [
      { ...lost, lost_at_seconds: 0.1, start_ms: null },
      { ...lost, lost_at_seconds: 3, start_ms: 20 },
    ];
    expect((await app.request('/health')).status).toBe(200);
    pod.recoveries = [...pod.recoveries, { ...lost, lost_at_seconds: 9, start_ms: null }];
    expect((await app.request('/health')).status).toBe(200);
    pod.recoveries = [{ ...lost, lost_at_seconds: 4, start_ms: null, successor: false }];
    expect((await app.request('/health')).status).toBe(200);
    pod.recoveries = [{ ...lost, lost_at_seconds: 4, start_ms: null }];
    const health = await app.request('/health');
    expect([health.status, (await health.json()).error.message]).toEqual([503, 'Worker 1 was lost 6.0 s ago, and its successor does not run yet.']);
  });

  it('health should say 503 of a task executor that serves nobody only where nobody else does its part', async () => {
    const pod = new FakePod();
    const { task_executors, npus, ...stats } = await pod.stats();
    const late = { worker: 7, cause: 'died', reason: 'it died', successor: true, warm: false, end_ms: 2, release_ms: 1, lost_at_seconds: 4 } as const;
    const roles = ['prefill', 'prefill', 'decode'] as const;
    const told = async (...lost: number[]): Promise<unknown> => {
      pod.stats = async () => ({
        ...stats,
        task_executors: roles.map((role, task_executor) => ({ ...(task_executors[0] as (typeof task_executors)[number]), role, task_executor })),
        npus: npus.map((npu) => ({ ...npu, task_executor: 1, worker: 7 })),
        recoveries: [{ ...late, start_ms: null }],
        experts_lost: lost.map((task_executor) => ({ task_executor, reason: 'why' })),
      });
      const health = await createApp(pod).request('/health');
      const body = await health.json();
      return [health.status, health.status === 200 ? body.reasons : body.error.message];
    };
    // Its worker is its own.
    expect(await told(1)).toEqual([200, ['Task executor 1 serves nobody: why.']]);
    expect(await told(0, 1)).toEqual([503, 'Task executor 0 serves nobody: why. Task executor 1 serves nobody: why.']);
    expect(await told(1, 2)).toEqual([503, expect.stringContaining('Task executor 2 serves nobody')]);
    expect(await told(0)).toEqual([503, 'Worker 7 was lost 6.0 s ago, and its successor does not run yet.']);
  });

  it('health should be well, and say so, where experts are done without; and a metric has the NPUs', async () => {
    const pod = new FakePod();
    const app = createApp(pod);
    const seriesOf = async (): Promise<unknown[]> => [...(await scrape(app)).series].filter(([name]) => name.startsWith('minipod:experts_masked'));
    expect(await (await app.request('/health')).text()).toBe('');
    expect(await seriesOf()).toEqual([]);
    pod.experts_masked = [{ task_executor: 1, npus: [6, 7] }];
    const health = await app.request('/health');
    expect([health.status, await health.json()]).toEqual([
      200,
      { status: 'degraded', reasons: ['Task executor 1 serves without the experts that NPU 6, 7 had: what it generates is marked degraded.'] },
    ]);
    expect(await seriesOf()).toEqual([['minipod:experts_masked_npus{task_executor="1",model_name="fake"}', 2]]);
  });

  it('health should tell of an NPU half of whose KV memory has gone bad', async () => {
    const pod = new FakePod();
    const app = createApp(pod);
    const worn = async (kv_blocks: number, kv_blocks_mapped_out: number): Promise<unknown> => {
      const stats = await FakePod.prototype.stats.call(pod);
      pod.stats = async () => ({ ...stats, npus: stats.npus.map((npu) => ({ ...npu, kv_blocks, kv_blocks_mapped_out })) });
      const health = await app.request('/health');
      return health.status === 200 ? 200 : (await health.json()).error.message;
    };
    expect(await worn(33, 31)).toBe(200);
    expect(await worn(32, 32)).toBe('NPU 0 has lost 32 of its 64 KV blocks to memory that went bad.');
  });

  it('should tell who is silent and replaced by nobody, and health why', async () => {
    const pod = new FakePod();
    const app = createApp(pod);
    const counts = { given_up: 3, over: 1, no_spare_seat: 0, control_thread: 2 };
    pod.suspicions = { counts, standing: [{ member: 'task-executor/0', why: 'control_thread', silent_seconds: 0.25 }] };
    const { series } = await scrape(app);
    expect(series.get('minipod:suspicions_total{verdict="given_up",model_name="fake"}')).toBe(3);
    expect(series.get('minipod:control_threads_lost_total{model_name="fake"}')).toBe(2);
    expect(series.get('minipod:suspected_silent_seconds{member="task-executor/0",why="control_thread",model_name="fake"}')).toBe(0.25);
    const health = await app.request('/health');
    expect([health.status, (await health.json()).error.message]).toEqual([
      503,
      'task-executor/0 has not answered for 0.3 s, and it lives on the control thread, which is given up after 10 s of that.',
    ]);
  });

  it('should answer 503 when the pod is closed', async () => {
    const pod = new FakePod();
    const app = createApp(pod);
    await pod.close();
    expect((await app.request('/metrics')).status).toBe(503);
  });
});
