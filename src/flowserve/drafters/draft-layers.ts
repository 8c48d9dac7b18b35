/** Which of a checkpoint's MTP layers a pod has in memory. @module */
import { MinipodError } from '../../protocol/errors.ts';
import type { ModelShape } from '../step-layout.ts';
import type { Speculative } from './speculative.ts';

/** A real model says how many there are; a shape that was written down has as many as are wanted. */
type Drafting = ModelShape & { readonly name?: string; readonly mtpLayers?: number };

/**
 * The model with its first MTP layer in memory, which drafts the tokens beyond the first as well, from its own hidden states (xDeepServe §4.6). Others stay on disk:
 * a second one's cache needs hidden states of the first for rows that later steps replace, and nobody keeps those.
 * @throws `invalid_request` where there are none
 */
export function withDraftLayers<Model extends Drafting>(model: Model, speculative: Speculative | undefined): Model {
  if (speculative?.method !== 'mtp') return model;
  const { name = 'the model', mtpLayers = 1 } = model;
  if (mtpLayers === 0)
    throw new MinipodError('invalid_request', `speculative_config.method: 'mtp' needs layers for multi-token prediction, and ${name} has none; use 'ngram'`, {
      param: 'speculative_config',
    });
  return { ...model, draftLayers: 1 };
}
