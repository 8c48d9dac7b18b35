/** Which layers there are, and which of them are mixtures of experts. Apart from config.ts: every thread asks this, and need not load what checks a checkpoint's fields. @module */
import type { ModelConfig, MoeConfig } from './config.ts';

/** Whether a layer's feedforward is a mixture of experts (else the dense MLP). MTP layers are numbered on from `config.layers`. */
export const isMoeLayer = ({ moe }: { readonly moe: Pick<MoeConfig, 'denseLayers'> }, layer: number): boolean => !moe.denseLayers.includes(layer);

/** Layers that have weights and KV in memory: the model's, then the MTP layers that are drafted with. */
export const layersInMemory = ({ layers, draftLayers = 0 }: Pick<ModelConfig, 'layers' | 'draftLayers'>): number => layers + draftLayers;

/** The layer that drafts the token of that index: one of its own as far as there are any, then the last. */
export const draftLayerOf = ({ layers, draftLayers = 0 }: Pick<ModelConfig, 'layers' | 'draftLayers'>, index: number): number =>
  layers + Math.min(index, Math.max(1, draftLayers) - 1);

/** The layers that the rows go through with which that token is drafted: a second layer, too, goes through those of the first token, so that it has KV of them. */
export const draftLayersOfRound = (model: Pick<ModelConfig, 'layers' | 'draftLayers'>, index: number): number[] =>
  index === 0 && (model.draftLayers ?? 0) > 1 ? [draftLayerOf(model, 0), draftLayerOf(model, 1)] : [draftLayerOf(model, index)];

/** Of those, the ones that have experts. */
export const moeLayersOf = (
  model: Pick<ModelConfig, 'layers' | 'draftLayers'> & { readonly moe: { readonly experts: number; readonly denseLayers: readonly number[] } },
): number[] => Array.from({ length: layersInMemory(model) }, (_, layer) => layer).filter((layer) => model.moe.experts > 0 && isMoeLayer(model, layer));
