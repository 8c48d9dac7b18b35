/** A model as if its one MTP layer stood there twice. @module */
import type { Checkpoint } from '../model/checkpoint.ts';
import { checkInventory } from '../model/inventory.ts';

/** For pods that draft with two: what drafts are decides no token, so the second may be the first. Its trace is of no model that there is in a folder. */
export function withMtpTwice(checkpoint: Checkpoint): Checkpoint {
  const { layers, mtpLayers } = checkpoint.config;
  const config = { ...checkpoint.config, mtpLayers: mtpLayers + 1 };
  const tensors = new Map(checkpoint.tensors);
  const [first, second] = [`model.layers.${layers}.`, `model.layers.${layers + mtpLayers}.`];
  for (const [name, tensor] of checkpoint.tensors) if (name.startsWith(first)) tensors.set(name.replace(first, second), tensor);
  return { ...checkpoint, config, tensors, parts: checkInventory(config, tensors, checkpoint.folder) };
}
