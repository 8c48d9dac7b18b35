/**
 * POST /admin/scale, and /scale_elastic_ep as vLLM has it: how many DP groups serve, while requests run. For whoever has the server's key, or, where it asks
 * for none, whoever is on its machine.
 * @module
 */
import * as z from 'zod';
import { scaleSchema } from '../options/scale-options.ts';
import type { JsonObject } from './body.ts';
import { ApiError } from './errors.ts';
import { parseRequest } from './schemas.ts';
import type { Service } from './service.ts';

/** `drain_timeout`: vLLM's, in which requests may end. Here they need not: they go on elsewhere. */
const elasticSchema = z.strictObject({ new_data_parallel_size: z.int().min(1), drain_timeout: z.number().positive().optional() });

export function checkAdmin({ admin_open }: Service): void {
  if (admin_open) return;
  throw new ApiError(
    403,
    'This server is open to a network and asks for no key, so nobody changes its shape or moves its experts: bind loopback, or set an API key.',
    {
      code: 'forbidden',
    },
  );
}

export async function scale(service: Service, body: JsonObject): Promise<Response> {
  checkAdmin(service);
  return Response.json(await service.pod.scale(parseRequest(scaleSchema, body)));
}

export async function scaleElastic(service: Service, body: JsonObject): Promise<Response> {
  checkAdmin(service);
  const { attention } = await service.pod.scale({ attention: parseRequest(elasticSchema, body).new_data_parallel_size });
  return Response.json({ message: `Scaled to ${attention} data parallel engines` });
}

export async function isScaling({ pod }: Service): Promise<Response> {
  const { scaling } = await pod.stats();
  return Response.json({ is_scaling_elastic_ep: scaling !== null && scaling.state !== 'stable' });
}
