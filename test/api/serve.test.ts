import { afterEach, describe, expect, it } from 'vitest';
import { type ApiServer, type ServeOptions, serve } from '../../src/api/index.ts';
import { MinipodError } from '../../src/protocol/errors.ts';
import { type Answer, parseEvents } from './ask.ts';
import { FakePod, type Faults } from './fake-pod.ts';
import { rawPost, rawText } from './raw-http.ts';

const JSON_TYPE = { 'content-type': 'application/json' };
const completion = (server: ApiServer, body: object): Promise<Response> =>
  fetch(`${server.url}/v1/completions`, { method: 'POST', headers: JSON_TYPE, body: JSON.stringify({ prompt: 'x', ignore_eos: true, ...body }) });

describe('serve', () => {
  const servers: ApiServer[] = [];
  async function start(faults: Faults = {}, options: Partial<ServeOptions> = {}): Promise<{ pod: FakePod; server: ApiServer }> {
    const pod = new FakePod(faults, { context_length: 1_000_000 });
    const server = await serve({ port: 0, onError: () => {}, ...options, pod });
    servers.push(server);
    return { pod, server };
  }
  afterEach(async () => {
    await Promise.all(servers.splice(0).map((server) => server.close()));
  });

  it('should listen on loopback on a free port', async () => {
    const { server } = await start();
    expect(server.url).toBe(`http://127.0.0.1:${server.port}`);
    expect(server.port).toBeGreaterThan(0);
    const response = await fetch(`${server.url}/health`);
    expect(response.status).toBe(200);
    expect(await response.text()).toBe('');
  });

  it('should say so when the port is in use', async () => {
    const { server } = await start();
    const second = serve({ pod: new FakePod(), port: server.port });
    await expect(second).rejects.toThrow(MinipodError);
    await expect(second).rejects.toMatchObject({
      code: 'invalid_request',
      param: 'port',
      message: expect.stringContaining(`port ${server.port} of 127.0.0.1 is in use`),
    });
  });

  it('should refuse options that it does not know', async () => {
    await expect(serve({ pod: new FakePod(), prot: 1 } as unknown as ServeOptions)).rejects.toMatchObject({ code: 'invalid_request', param: 'prot' });
    await expect(serve({ pod: new FakePod(), port: 70_000 })).rejects.toMatchObject({ param: 'port' });
    await expect(serve({ pod: new FakePod(), api_key: '' })).rejects.toMatchObject({ param: 'api_key' });
  });

  it('should cancel what a client that hung up had asked for, streamed or not', async () => {
    // A body of a few packets: Deno.serve was seen to notice only clients whose request was short.
    for (const [stream, user] of [
      [true, 'a'],
      [false, 'a'],
      [true, 'a'.repeat(9_000)],
      [false, 'a'.repeat(9_000)],
    ] as const) {
      const { pod, server } = await start({ delay_ms: 5 });
      const client = await rawPost(server.port, '/v1/completions', { prompt: ['a', 'b'], max_tokens: 100_000, ignore_eos: true, stream, user });
      await expect.poll(() => pod.chunks_given).toBeGreaterThan(4);
      expect(pod.running).toBe(2);
      client.socket.destroy();
      await expect.poll(() => pod.running).toBe(0);
      expect(pod.cancelled).toBe(2);
    }
  });

  it('should let go of a client that hung up even where the pod hangs', async () => {
    const { pod, server } = await start({ hang: true }, { concurrency: 1 });
    const client = await rawPost(server.port, '/v1/completions', { prompt: 'a', stream: true });
    await expect.poll(() => pod.running).toBe(1);
    expect((await completion(server, {})).status).toBe(429);
    client.socket.destroy();
    await expect.poll(async () => (await fetch(`${server.url}/health`)).status).toBe(200);
    pod.faults = {};
    await expect.poll(async () => (await completion(server, { max_tokens: 1 })).status).toBe(200);
  });

  it('should neither count nor wait for a client that has not said all', async () => {
    const { server } = await start({}, { concurrency: 1 });
    const client = await rawText(server.port, '/v1/completions', '{"prompt":', 100);
    const half = await rawText(server.port, '/v1/contexts', '', 2 ** 20);
    for (let time = 0; time < 3; time++) expect((await completion(server, { max_tokens: 1 })).status).toBe(200);
    expect(server.active).toBe(0);
    client.socket.write(`"x", "max_tokens": 1}${' '.repeat(69)}`);
    await expect.poll(() => client.received()).toMatch(/^HTTP\/1.1 200 /);
    const late = await rawText(server.port, '/v1/completions', '{"prompt":', 100);
    await expect.poll(async () => (await fetch(`${server.url}/health`)).status).toBe(200);
    const closed = server.close({ drain_ms: 2 ** 30 });
    late.socket.write(`"x", "max_tokens": 1}${' '.repeat(69)}`);
    expect(await closed).toEqual({ cut: 0 });
    await expect.poll(() => late.received()).toMatch(/^HTTP\/1.1 503 .*"code":"closed"/s);
    for (const { socket } of [client, half, late]) socket.destroy();
  });

  it('should hold a generation back while its client does not read', async () => {
    // Sockets of 4 MB fill quickly.
    const { pod, server } = await start({ wide: 16_384 });
    const client = await rawPost(server.port, '/v1/chat/completions', {
      messages: [{ role: 'user', content: 'x' }],
      ignore_eos: true,
      max_tokens: 100_000,
      stream: true,
    });
    await expect.poll(() => pod.chunks_given).toBeGreaterThan(4);
    client.socket.pause();
    let before = -1;
    await expect
      .poll(
        async () => {
          const stalled = before === pod.chunks_given;
          before = pod.chunks_given;
          return stalled;
        },
        { interval: 500, timeout: 25_000 },
      )
      .toBe(true);
    expect(before).toBeLessThan(50_000);
    client.socket.resume();
    // Linux was seen not to say that there is room again: then who sends asks, after about as long as it has stood still. Whatever a client sends says so, too.
    const readAgain = (): number => {
      client.socket.write('\r\n');
      return pod.chunks_given;
    };
    await expect.poll(readAgain, { timeout: 5_000 }).toBeGreaterThan(before);
    client.socket.destroy();
    await expect.poll(() => pod.running).toBe(0);
  }, 40_000);

  it('should send each event when it is made', async () => {
    const { server } = await start({ delay_ms: 30 });
    const response = await completion(server, { max_tokens: 10, stream: true });
    let reads = 0;
    for await (const _ of response.body ?? []) reads++;
    expect(reads).toBeGreaterThan(5);
  });

  it('should end streams with an error event and other requests with 503 when it closes', async () => {
    const { pod, server } = await start({ delay_ms: 5 });
    const streamed = await completion(server, { max_tokens: 100_000, stream: true });
    const whole = completion(server, { max_tokens: 100_000 });
    await expect.poll(() => pod.running).toBe(2);
    const closed = server.close();
    const events = parseEvents(await streamed.text());
    expect(events.at(-1)).toMatchObject({ error: { type: 'server_error', code: 'closed' } });
    const response = await whole;
    expect(response.status).toBe(503);
    expect(response.headers.get('x-should-retry')).toBe('true');
    expect(((await response.json()) as Answer).error.code).toBe('closed');
    await closed;
    await expect.poll(() => pod.running).toBe(0);
    await expect(fetch(`${server.url}/health`)).rejects.toThrow();
  });

  it('should let requests finish while it drains', async () => {
    const { pod, server } = await start({ delay_ms: 20 });
    const streamed = await completion(server, { max_tokens: 20, stream: true });
    const closed = server.close({ drain_ms: 10_000 });
    const events = parseEvents(await streamed.text());
    expect(events.at(-1)).toBe('[DONE]');
    expect(events).toHaveLength(21);
    await closed;
    await server.close();
    expect(pod.cancelled).toBe(0);
  });

  it('should close though a client keeps its connection or does not read', async () => {
    const { pod, server } = await start();
    await fetch(`${server.url}/health`);
    const client = await rawPost(server.port, '/v1/completions', { prompt: 'x', max_tokens: 100_000, ignore_eos: true, stream: true });
    await expect.poll(() => pod.chunks_given).toBeGreaterThan(4);
    client.socket.pause();
    // Whoever waited for that client would wait until it goes.
    expect(await server.close()).toEqual({ cut: 1 });
    client.socket.destroy();
  });

  it('should serve many streams at once', async () => {
    const { pod, server } = await start();
    const texts = await Promise.all(
      Array.from({ length: 200 }, async () => parseEvents(await (await completion(server, { max_tokens: 20, temperature: 0, stream: true })).text())),
    );
    const first = texts[0]?.slice(0, -1).map((event) => event.choices[0].text);
    for (const events of texts) expect(events.slice(0, -1).map((event) => event.choices[0].text)).toEqual(first);
    expect(pod.running).toBe(0);
  });
});
