/** Debian's Chromium without a screen, driven by its DevTools protocol: opens a page, moves the mouse, asks what it shows. */
import { type ChildProcess, spawn } from 'node:child_process';
import { accessSync, constants, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';

/** Where it is installed; null: it is not. */
export function findChromium(): string | null {
  const folders = (process.env['PATH'] ?? '').split(delimiter);
  const names = ['chromium', 'chromium-browser', 'google-chrome'];
  return names.flatMap((name) => folders.map((folder) => join(folder, name))).find(isExecutable) ?? null;
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

type Answer = { readonly id?: number; readonly method?: string; readonly params?: unknown; readonly result?: unknown; readonly error?: { message: string } };

export class BrowserPage {
  readonly #socket: WebSocket;
  readonly #session: string;
  readonly #waiting: Map<number, (answer: Answer) => void>;
  /** What the page threw or complained of, and each address that it asked for. */
  readonly failures: string[] = [];
  readonly requests: string[] = [];
  #count = 1000;

  constructor(socket: WebSocket, session: string, waiting: Map<number, (answer: Answer) => void>) {
    [this.#socket, this.#session, this.#waiting] = [socket, session, waiting];
    socket.addEventListener('message', ({ data }) => {
      const { method, params } = JSON.parse(String(data)) as { method?: string; params: { [name: string]: { [name: string]: unknown } } };
      if (method === 'Runtime.exceptionThrown') this.failures.push(JSON.stringify(params['exceptionDetails']));
      if (method === 'Log.entryAdded' && params['entry']?.['level'] === 'error') this.failures.push(JSON.stringify(params['entry']));
      if (method === 'Network.requestWillBeSent') this.requests.push(String(params['request']?.['url']));
    });
  }

  async call(method: string, params: object = {}): Promise<unknown> {
    const id = this.#count++;
    const answer = await new Promise<Answer>((resolve) => {
      this.#waiting.set(id, resolve);
      this.#socket.send(JSON.stringify({ id, method, params, sessionId: this.#session }));
    });
    if (answer.error) throw new Error(`${method}: ${answer.error.message}`);
    return answer.result;
  }

  /** The value of an expression, awaited. */
  async ask<Value>(expression: string): Promise<Value> {
    const { result, exceptionDetails } = (await this.call('Runtime.evaluate', { expression, awaitPromise: true, returnByValue: true })) as {
      result: { value: Value };
      exceptionDetails?: unknown;
    };
    if (exceptionDetails) throw new Error(`${expression}: ${JSON.stringify(exceptionDetails)}`);
    return result.value;
  }

  /** At a point of the window, in CSS pixels. */
  mouse(type: 'mouseMoved' | 'mousePressed' | 'mouseReleased' | 'mouseWheel', x: number, y: number, more: object = {}): Promise<unknown> {
    const isButton = type === 'mousePressed' || type === 'mouseReleased';
    return this.call('Input.dispatchMouseEvent', { type, x, y, ...(isButton ? { button: 'left', clickCount: 1 } : {}), ...more });
  }

  async click(x: number, y: number): Promise<void> {
    await this.mouse('mousePressed', x, y);
    await this.mouse('mouseReleased', x, y);
  }
}

export class Browser implements AsyncDisposable {
  readonly #process: ChildProcess;
  readonly #folder: string;
  readonly #socket: WebSocket;
  readonly #waiting = new Map<number, (answer: Answer) => void>();
  #count = 0;

  private constructor(process: ChildProcess, folder: string, socket: WebSocket) {
    [this.#process, this.#folder, this.#socket] = [process, folder, socket];
    socket.addEventListener('message', ({ data }) => {
      const answer = JSON.parse(String(data)) as Answer;
      if (answer.id === undefined) return;
      this.#waiting.get(answer.id)?.(answer);
      this.#waiting.delete(answer.id);
    });
  }

  static async start(chromium: string): Promise<Browser> {
    const folder = mkdtempSync(join(tmpdir(), 'minipod-chromium-'));
    const flags = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--window-size=1500,900', `--user-data-dir=${folder}`];
    const process = spawn(chromium, [...flags, '--remote-debugging-port=0', 'about:blank'], { stdio: ['ignore', 'ignore', 'pipe'] });
    const url = await new Promise<string>((resolve, reject) => {
      let said = '';
      process.once('error', reject);
      process.once('close', (code) => reject(new Error(`${chromium} ended with ${code}: ${said}`)));
      process.stderr?.setEncoding('utf8').on('data', (text: string) => {
        said += text;
        const [, found] = /DevTools listening on (ws:\S+)/.exec(said) ?? [];
        if (found !== undefined) resolve(found);
      });
    });
    const socket = new WebSocket(url);
    await new Promise((resolve, reject) => {
      socket.addEventListener('open', resolve, { once: true });
      socket.addEventListener('error', () => reject(new Error(`no answer from ${url}`)), { once: true });
    });
    return new Browser(process, folder, socket);
  }

  /** Resolves once the page says that it is ready. */
  async open(url: string): Promise<BrowserPage> {
    const { targetId } = (await this.#call('Target.createTarget', { url: 'about:blank' })) as { targetId: string };
    const { sessionId } = (await this.#call('Target.attachToTarget', { targetId, flatten: true })) as { sessionId: string };
    const page = new BrowserPage(this.#socket, sessionId, this.#waiting);
    for (const domain of ['Page', 'Runtime', 'Log', 'Network']) await page.call(`${domain}.enable`);
    await page.call('Page.navigate', { url });
    while (!(await page.ask<boolean>('document.body?.dataset.ready === "true"').catch(() => false))) {
      if (page.failures.length > 0) throw new Error(page.failures.join('\n'));
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    return page;
  }

  async #call(method: string, params: object): Promise<unknown> {
    const id = ++this.#count;
    const { result, error } = await new Promise<Answer>((resolve) => {
      this.#waiting.set(id, resolve);
      this.#socket.send(JSON.stringify({ id, method, params }));
    });
    if (error) throw new Error(`${method}: ${error.message}`);
    return result;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const ended = new Promise((resolve) => this.#process.once('close', resolve));
    await Promise.race([this.#call('Browser.close', {}).catch(() => {}), ended]);
    await ended;
    this.#socket.close();
    rmSync(this.#folder, { recursive: true, force: true, maxRetries: 5 });
  }
}
