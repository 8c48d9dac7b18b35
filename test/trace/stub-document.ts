/** As much of a browser as the page's script touches, where there is none: elements that keep their text, a canvas that counts what is drawn on it. */

type Listener = (event: object) => void;

export class StubElement {
  readonly dataset: { [name: string]: string } = {};
  readonly style = { setProperty: () => {} };
  readonly classList = { add: () => {}, remove: () => {} };
  readonly clientWidth = 1_200;
  readonly clientHeight = 800;
  readonly #listeners = new Map<string, Listener>();
  readonly drawn: { [method: string]: number } = {};
  children: StubElement[] = [];
  text = '';
  value = '';
  hidden = false;

  get textContent(): string {
    return `${this.text}${this.children.map(({ textContent }) => textContent).join(' ')}`;
  }
  set textContent(text: string) {
    this.text = text;
    this.children = [];
  }

  append(...children: StubElement[]): void {
    this.children.push(...children);
  }
  replaceChildren(...children: StubElement[]): void {
    this.text = '';
    this.children = children;
  }
  remove(): void {}
  setPointerCapture(): void {}

  addEventListener(type: string, listener: Listener): void {
    this.#listeners.set(type, listener);
  }
  dispatch(type: string, event: object = {}): void {
    const listener = this.#listeners.get(type);
    if (listener === undefined) throw new Error(`nobody listens for ${type}`);
    listener({ preventDefault: () => {}, ...event });
  }

  /** Every method counts, every property takes what it is given. */
  getContext(): object {
    const context = { canvas: this } as { [name: string]: unknown };
    return new Proxy(context, {
      get: (target, name: string) => (name in target ? target[name] : () => (this.drawn[name] = (this.drawn[name] ?? 0) + 1)),
    });
  }
}

export class StubDocument {
  readonly elements = new Map<string, StubElement>();
  readonly body = new StubElement();
  readonly documentElement = new StubElement();
  readonly #listeners = new Map<string, Listener>();
  readonly activeElement = null;
  title = '';

  constructor(html: string) {
    for (const [, id = ''] of html.matchAll(/\bid="(\w+)"/g)) this.elements.set(id, new StubElement());
    this.get('data').text = /id="data">([^<]*)</.exec(html)?.[1] ?? '';
  }

  get(id: string): StubElement {
    const element = this.elements.get(id);
    if (element === undefined) throw new Error(`the page has no #${id}`);
    return element;
  }
  getElementById(id: string): StubElement | null {
    return this.elements.get(id) ?? null;
  }
  createElement(): StubElement {
    return new StubElement();
  }
  addEventListener(type: string, listener: Listener): void {
    this.#listeners.set(type, listener);
  }
  press(key: string): void {
    this.#listeners.get('keydown')?.({ key, preventDefault: () => {} });
  }
}

/** Runs the page's own script, as it stands in the page, to where it says that it is ready. */
export async function runScript(html: string, hash = ''): Promise<StubDocument> {
  const document = new StubDocument(html);
  const script = /<script>\n([\s\S]*?)<\/script>/.exec(html)?.[1] ?? '';
  const globals = {
    document,
    window: { devicePixelRatio: 1, innerWidth: 1_500, innerHeight: 900 },
    location: { hash },
    history: { replaceState: () => {} },
    getComputedStyle: () => ({ color: 'black', getPropertyValue: () => 'serif' }),
    requestAnimationFrame: (paint: () => void) => paint(),
    matchMedia: () => new StubElement(),
    ResizeObserver: class {
      observe(): void {}
    },
  };
  const run = new Function(...Object.keys(globals), script.replace("'use strict';\n", 'return ')) as (...values: unknown[]) => Promise<void>;
  await run(...Object.values(globals));
  return document;
}
