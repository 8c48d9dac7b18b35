/** Which of a checkpoint's MTP layers a pod has in memory. @module */
import { MinipodError } from '../../protocol/errors.ts';
import type { ModelShape } from '../layouts/step-layout.ts';
import type { Speculative } from './speculative.ts';

/** A real model says how many there are; a shape that was written down has as many as are wanted. */
type Drafting = ModelShape & { readonly name?: string; readonly mtpLayers?: number };

/** A third one would have to go through tokens again that are drafted only. */
const DRAFT_LAYERS_MAX = 2;

/**
 * The model with those of its MTP layers in memory that draft: the first, and where more tokens are drafted than one the second. Tokens beyond are drafted by the last
 * of those, from its own hidden states (xDeepServe §4.6). Others stay on disk.
 * @throws `invalid_request` where there are none
 */
export function withDraftLayers<Model extends Drafting>(model: Model, speculative: Speculative | undefined): Model {
  if (speculative?.method !== 'mtp') return model;
  const { name = 'the model', mtpLayers = 1 } = model;
  if (mtpLayers === 0)
    throw new MinipodError('invalid_request', `speculative_config.method: 'mtp' needs layers for multi-token prediction, and ${name} has none; use 'ngram'`, {
      param: 'speculative_config',
    });
  return { ...model, draftLayers: Math.min(mtpLayers, speculative.tokens, DRAFT_LAYERS_MAX) };
}
