import { join, relative } from 'node:path';
import { describe, expect, it } from 'vitest';
import { listModels, resolveModel } from '../../src/model/registry.ts';
import { errorOf, TINY, temporaryFolder } from './checkpoint-folder.ts';

describe('resolveModel', () => {
  it('should find a shipped model by name', () => {
    expect(listModels()).toContain('tiny-deepseek-v3');
    expect(resolveModel('tiny-deepseek-v3')).toBe(TINY['tiny-deepseek-v3']);
  });
  it('should find a folder by absolute or relative path', () => {
    expect(resolveModel(TINY['tiny-kimi-k2'])).toBe(TINY['tiny-kimi-k2']);
    expect(resolveModel(relative(process.cwd(), TINY['tiny-kimi-k2']))).toBe(TINY['tiny-kimi-k2']);
  });
  it('should list the shipped models where it finds none', () => {
    const { code, param, message } = errorOf(() => resolveModel('gpt-5'));
    expect({ code, param }).toEqual({ code: 'invalid_request', param: 'model' });
    expect(message).toMatch(/shipped model \(.*tiny-deepseek-v3.*\).*found "gpt-5": there is no /);
    const empty = temporaryFolder();
    expect(errorOf(() => resolveModel(empty)).message).toMatch(/has no config\.json/);
    expect(errorOf(() => resolveModel(join(empty, 'x'))).message).toMatch(/there is no /);
  });
});
