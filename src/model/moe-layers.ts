/** Which layers are mixtures of experts. Apart from config.ts: every thread asks this, and need not load what checks a checkpoint's fields. @module */
import type { MoeConfig } from './config.ts';

/** Whether a layer's feedforward is a mixture of experts (else the dense MLP). MTP layers are numbered on from `config.layers`. */
export const isMoeLayer = ({ moe }: { readonly moe: Pick<MoeConfig, 'denseLayers'> }, layer: number): boolean => !moe.denseLayers.includes(layer);

/** Those that have experts. */
export const moeLayersOf = (model: {
  readonly layers: number;
  readonly moe: { readonly experts: number; readonly denseLayers: readonly number[] };
}): number[] => Array.from({ length: model.layers }, (_, layer) => layer).filter((layer) => model.moe.experts > 0 && isMoeLayer(model, layer));
