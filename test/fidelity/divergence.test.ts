import { expect, it } from 'vitest';
import { BareModel } from '../../src/fidelity/bare-model.ts';
import { divergenceOf } from '../../src/fidelity/divergence.ts';
import { cutText } from '../../src/fidelity/text-windows.ts';
import { loadTokenizer } from '../../src/model/tokenizer.ts';
import { casesOf, folderOf, lastLogitsOf, MODELS, TOLERANCE } from '../golden/goldens.ts';

const [deepseek, qwen, kimi] = MODELS.map(folderOf) as [string, string, string];
const TEXT = 'Once upon a time there was a king who had three sons. The eldest went out into the wide world.';

async function logitsOf(folder: string, ids: readonly number[]): Promise<Float32Array[]> {
  const model = await BareModel.open(folder, ids.length);
  model.place(0, ids.length);
  model.embed(ids);
  for (let layer = 0; layer < model.config.layers; layer++) model.layer(layer, ids.length);
  return ids.map((_, row) => model.logits(row, 1).values.slice());
}

it('should look into the model that the goldens are of', async () => {
  for (const name of MODELS) {
    const [golden] = casesOf(name);
    if (golden === undefined) throw new Error('no golden');
    const found = (await logitsOf(folderOf(name), golden.token_ids)).at(-1) ?? [];
    for (const [index, value] of lastLogitsOf(golden).entries()) expect(Math.abs(value - (found[index] ?? Number.NaN))).toBeLessThan(TOLERANCE);
  }
});

it('should find nothing between a model and itself', async () => {
  const found = await divergenceOf({ model: deepseek, against: deepseek, text: TEXT, window: 20, layers: true });
  expect(found).toMatchObject({ kl_mean: 0, kl_max: 0, top1_agreement: 1, worst: [] });
  expect(found.layers).toEqual([0, 1, 2, 3, 4].map((layer) => ({ layer, relative_error: 0, worst_row: 0 })));
  expect(found.model).toEqual(found.against);
});

it('should find what each numerics option of a model loses by itself, and all of them together', async () => {
  const options = [{ kv_cache_dtype: 'int8' }, { dispatch_dtype: 'int8' }, { combine_dtype: 'int8' }] as const;
  const lossOf = async (numerics: object): Promise<number> =>
    (await divergenceOf({ model: deepseek, against: deepseek, text: TEXT, window: 20, ...numerics })).kl_mean;
  const losses = [];
  for (const numerics of [...options, Object.assign({}, ...options)]) losses.push(await lossOf(numerics));
  expect(new Set(losses).size).toBe(4);
  for (const loss of losses) expect([loss > 0, loss < 0.05]).toEqual([true, true]);
});

it('should be the divergence of the two models’ distributions', async () => {
  const tokenizer = await loadTokenizer(deepseek);
  const [window] = cutText(TEXT, tokenizer, 2047).windows;
  const ids = window?.ids ?? [];
  const found = await divergenceOf({ model: qwen, against: deepseek, text: TEXT, worst: 3 });
  const distribution = (logits: Float32Array): number[] => {
    const sum = logits.reduce((total, logit) => total + Math.exp(logit), 0);
    return Array.from(logits, (logit) => Math.exp(logit) / sum);
  };
  const [own, other] = await Promise.all([qwen, deepseek].map(async (folder) => (await logitsOf(folder, ids)).map(distribution)));
  const kl = ids.slice(1).map((_, row) => (other?.[row] ?? []).reduce((sum, p, id) => sum + p * Math.log(p / (own?.[row]?.[id] ?? 0)), 0));
  expect(found.kl_mean).toBeCloseTo(kl.reduce((sum, value) => sum + value, 0) / kl.length, 4);
  expect(found.kl_max).toBeCloseTo(Math.max(...kl), 4);
  const worst = kl.map((value, index) => ({ value, index })).sort((a, b) => b.value - a.value);
  expect(found.worst.map(({ index }) => index)).toEqual(worst.slice(0, 3).map(({ index }) => index));
  expect(found.worst.map(({ token_id }) => token_id)).toEqual(worst.slice(0, 3).map(({ index }) => ids[index + 1]));
  const best = (rows: number[][] | undefined): number[] => (rows ?? []).slice(0, -1).map((row) => row.indexOf(Math.max(...row)));
  const agreed = best(own).filter((id, row) => id === best(other)[row]).length;
  expect(found.top1_agreement).toBeCloseTo(agreed / kl.length, 12);
});

it('should refuse layers of models that are not built alike', async () => {
  const refused = divergenceOf({ model: kimi, against: deepseek, text: TEXT, layers: true });
  await expect(refused).rejects.toMatchObject({ code: 'invalid_request', param: 'against', message: expect.stringContaining('3 layers of 128 and 5 of 192') });
});
