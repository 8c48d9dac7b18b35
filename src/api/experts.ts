/**
 * GET /experts: what each expert does, as `pod.experts()` tells it. `measure=false`: without timing batches from now on.
 * @module
 */
import { invalid } from './errors.ts';
import type { Service } from './service.ts';

export async function experts({ pod }: Service, measure = 'true'): Promise<Response> {
  if (measure !== 'true' && measure !== 'false') throw invalid('measure', 'must be true or false');
  return Response.json(await pod.experts({ measure: measure === 'true' }));
}
