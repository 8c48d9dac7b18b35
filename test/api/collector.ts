/** A collector of OpenTelemetry, for tests: takes what is posted to it, or refuses; `posts` counts both. */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Answer } from './ask.ts';

export type Collector = AsyncDisposable & { readonly url: string; readonly bodies: Answer[]; posts: number; status: number };

export async function startCollector(): Promise<Collector> {
  const bodies: Answer[] = [];
  const server = createServer(async (request, response) => {
    let text = '';
    for await (const part of request) text += part;
    if (collector.status === 200 && request.headers['content-type'] === 'application/json') bodies.push(JSON.parse(text));
    collector.posts++;
    response.writeHead(collector.status).end('{}');
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const collector: Collector = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1/traces`,
    bodies,
    posts: 0,
    status: 200,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return collector;
}

type Sent = {
  name: string;
  traceId: string;
  spanId: string;
  parentSpanId?: string;
  kind: number;
  start_ms: number;
  end_ms: number;
  attributes: Answer;
  status: Answer;
};

/** All spans that came, with their times as numbers and their attributes as a plain object. */
export const spansOf = (bodies: readonly Answer[]): Sent[] =>
  bodies.flatMap((body) =>
    body.resourceSpans.flatMap((ofResource: Answer) =>
      ofResource.scopeSpans.flatMap((ofScope: Answer) =>
        ofScope.spans.map((span: Answer) => ({
          ...span,
          start_ms: Number(span.startTimeUnixNano) / 1e6,
          end_ms: Number(span.endTimeUnixNano) / 1e6,
          attributes: Object.fromEntries(span.attributes.map(({ key, value }: Answer) => [key, Object.values(value)[0]])),
        })),
      ),
    ),
  );
