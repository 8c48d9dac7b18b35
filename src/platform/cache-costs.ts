/** What the cost model of the KV cache reckons with, from the model and the device. @module */
import type { CacheCosts } from '../../actors/policies/cache-costs.ts';
import type { PlanOptions } from '../flowserve/pod-plan.ts';
import type { ModelConfig } from '../model/config.ts';
import type { Numerics } from '../protocol/numerics.ts';
import { type Device, HOST_CORE, kvBlockBytes, ROCE, rooflineStep } from '../simulate/roofline.ts';

/** Tokens of a chunk of prefill. */
const CHUNK = 256;
const US_PER_S = 1e6;
const NS_PER_US = 1_000;

/** Options of a plan, and what blocks in DRAM cost by them. */
export const withCacheCosts = <Options extends PlanOptions>(options: Options, config: ModelConfig, device: Device = HOST_CORE): Options => ({
  ...options,
  cache_costs: cacheCosts(config, options.kv_block_size, device, options.dram_bytes_per_s, linkOf(options, device), options),
});

/** Between DP groups: by what joins task executors. */
const linkOf = ({ kv_fabric, link_bytes_per_s }: PlanOptions, device: Device): typeof ROCE => {
  const link = kv_fabric === 'tcp' ? ROCE : device;
  return { link_latency_ns: link.link_latency_ns, link_bytes_per_s: link_bytes_per_s ?? link.link_bytes_per_s };
};

/** `dram_bytes_per_s`, `link` missing: as fast as the device's links. */
function cacheCosts(
  config: ModelConfig,
  kv_block_size: number,
  device: Device,
  dram_bytes_per_s = device.link_bytes_per_s,
  link: typeof ROCE = device,
  numerics: Numerics = {},
): CacheCosts {
  const step = rooflineStep(config, { npus: 1, tp: 1 }, device, numerics);
  const tokens = Array.from({ length: CHUNK }, () => 0);
  const chunk_us = (start: number): number => step({ entries: [{ start, tokens, samples: false }] }) / NS_PER_US;
  const bytes = kvBlockBytes(config, kv_block_size, device, numerics);
  const fixed_us = device.link_latency_ns / NS_PER_US;
  return {
    dram_fixed_us: fixed_us,
    dram_us_per_block: (bytes / dram_bytes_per_s) * US_PER_S,
    remote_fixed_us: link.link_latency_ns / NS_PER_US,
    remote_us_per_block: (bytes / link.link_bytes_per_s) * US_PER_S,
    compute_us_per_token: chunk_us(0) / CHUNK,
    attention_us_per_position: (chunk_us(config.maxPositions) - chunk_us(0)) / CHUNK / config.maxPositions,
  };
}
