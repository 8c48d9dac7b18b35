/** How commands that look at a server ask it. */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { askServer } from '../../src/cli/server.ts';
import { minipod } from './command.ts';

describe('a server that is asked', () => {
  const asked: string[] = [];
  const server = createServer(({ url = '' }, response) => {
    asked.push(url);
    response.end(url);
  });
  let origin: string;
  beforeAll(async () => {
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  });
  afterAll(() => {
    server.closeAllConnections();
    server.close();
  });

  it.each([
    ['', '/metrics'],
    ['/', '/metrics'],
    ['/pods/one', '/pods/one/metrics'],
    ['/pods/one/', '/pods/one/metrics'],
    ['/pods/one?key=k', '/pods/one/metrics?key=k'],
  ])('should be asked below the path of its URL: %j', async (end, expected) => {
    expect(await askServer({ url: `${origin}${end}` }, '/metrics', new AbortController().signal)).toBe(expected);
  });

  it('should be asked there by each command that takes --url', async () => {
    const under = ['--url', `${origin}/pods/one`];
    asked.length = 0;
    await Promise.all([minipod(['top', ...under]), minipod(['experts', ...under]), minipod(['scale', ...under]), minipod(['experts', 'rebalance', ...under])]);
    expect(asked.toSorted()).toEqual(['/admin/rebalance', '/admin/scale', '/experts', '/metrics'].map((path) => `/pods/one${path}`));
  });
});
