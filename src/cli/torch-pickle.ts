/**
 * Reads pickles of plain data: dictionaries, lists, tuples, strings, numbers, and the tensors that torch.save writes among them. A pickle is a program, which
 * may call whatever it names; here nothing is called, and what names anything but a tensor is refused.
 * @module
 */

/** `values`: read when they are asked for. */
export type Tensor = { readonly shape: readonly number[]; readonly values: () => number[] };
export const isTensor = (value: unknown): value is Tensor => typeof value === 'object' && value !== null && 'shape' in value && 'values' in value;

/** Elements `stride` apart in a storage, from `offset` on. */
export type TensorPlace = {
  readonly storage: string;
  readonly type: string;
  readonly offset: number;
  readonly shape: readonly number[];
  readonly strides: readonly number[];
};

/** What the pickle names: a class or a function. */
class Named {
  readonly name: string;
  constructor(name: string) {
    this.name = name;
  }
}
type Storage = { readonly type: string; readonly key: string };

const MARK = Symbol('mark');
const REBUILD = 'torch._utils _rebuild_tensor_v2';
const ORDERED_DICT = 'collections OrderedDict';
const STORAGE = /^torch (\w+)Storage$/;
const latin = new TextDecoder('latin1');
const utf8 = new TextDecoder('utf-8', { fatal: true });

/** What the pickle holds; dictionaries as records, tuples as lists. @throws Error that says why it cannot be read */
export function readPickle(bytes: Uint8Array, tensorAt: (place: TensorPlace) => Tensor): unknown {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const stack: unknown[] = [];
  const memo = new Map<number, unknown>();
  let at = 0;
  const take = (count: number): Uint8Array => {
    if (at + count > bytes.length) throw new Error('its pickle ends in the midst of a value');
    at += count;
    return bytes.subarray(at - count, at);
  };
  const u8 = (): number => take(1)[0] as number;
  const u32 = (): number => {
    take(4);
    return view.getUint32(at - 4, true);
  };
  const line = (): string => {
    const end = bytes.indexOf(0x0a, at);
    if (end < 0) throw new Error('its pickle ends in the midst of a name');
    const text = latin.decode(bytes.subarray(at, end));
    at = end + 1;
    return text;
  };
  const pop = (): unknown => {
    if (stack.length === 0) throw new Error('its pickle takes what was not put there');
    return stack.pop();
  };
  const popToMark = (): unknown[] => {
    const mark = stack.lastIndexOf(MARK);
    if (mark < 0) throw new Error('its pickle has no mark where it needs one');
    return stack.splice(mark).slice(1);
  };
  const list = (): unknown[] => {
    const top = stack.at(-1);
    if (!Array.isArray(top)) throw new Error('its pickle appends to what is no list');
    return top;
  };
  const setItems = (items: readonly unknown[]): void => {
    const target = stack.at(-1);
    if (typeof target !== 'object' || target === null || Array.isArray(target) || target instanceof Named || isTensor(target))
      throw new Error('its pickle sets items of what is no dictionary');
    for (let item = 0; item + 1 < items.length; item += 2)
      Object.defineProperty(target, String(items[item]), { value: items[item + 1], enumerable: true, configurable: true, writable: true });
  };
  for (;;) {
    const code = String.fromCharCode(u8());
    switch (code) {
      case '\x80': // PROTO
        u8();
        break;
      case '.': // STOP
        return pop();
      case '(':
        stack.push(MARK);
        break;
      case '}':
        stack.push({});
        break;
      case ']':
      case ')':
        stack.push([]);
        break;
      case 'N':
        stack.push(null);
        break;
      case '\x88':
      case '\x89':
        stack.push(code === '\x88');
        break;
      case 'K':
        stack.push(u8());
        break;
      case 'M':
        take(2);
        stack.push(view.getUint16(at - 2, true));
        break;
      case 'J':
        take(4);
        stack.push(view.getInt32(at - 4, true));
        break;
      case '\x8a': // LONG1
        stack.push(take(u8()).reduceRight((sum, byte, index, all) => sum * 256 + (index === all.length - 1 && byte > 127 ? byte - 256 : byte), 0));
        break;
      case 'G':
        take(8);
        stack.push(view.getFloat64(at - 8));
        break;
      case 'X':
        stack.push(utf8.decode(take(u32())));
        break;
      case 'q':
        memo.set(u8(), stack.at(-1));
        break;
      case 'r':
        memo.set(u32(), stack.at(-1));
        break;
      case 'h':
      case 'j': {
        const key = code === 'h' ? u8() : u32();
        if (!memo.has(key)) throw new Error('its pickle remembers what it has not had');
        stack.push(memo.get(key));
        break;
      }
      case 'a': {
        const item = pop();
        list().push(item);
        break;
      }
      case 'e': {
        const items = popToMark();
        const target = list();
        // One by one: there may be more than a call takes arguments.
        for (const item of items) target.push(item);
        break;
      }
      case 's': {
        const item = pop();
        setItems([pop(), item]);
        break;
      }
      case 'u':
        setItems(popToMark());
        break;
      case 't':
        stack.push(popToMark());
        break;
      case '\x85':
      case '\x86':
      case '\x87':
        stack.push(Array.from({ length: code.charCodeAt(0) - 0x84 }, pop).reverse());
        break;
      case 'c':
        stack.push(new Named(`${line()} ${line()}`));
        break;
      case 'Q':
        stack.push(storageOf(pop()));
        break;
      case 'R': {
        const args = pop();
        stack.push(made(pop(), args, tensorAt));
        break;
      }
      default:
        throw new Error(`its pickle holds more than plain data and tensors (code ${code.charCodeAt(0)} at byte ${at - 1})`);
    }
  }
}

function storageOf(id: unknown): Storage {
  const [kind, named, key] = Array.isArray(id) ? (id as unknown[]) : [];
  const type = named instanceof Named ? STORAGE.exec(named.name)?.[1] : undefined;
  if (kind !== 'storage' || type === undefined || typeof key !== 'string') throw new Error('its pickle refers to what is no tensor’s storage');
  return { type, key };
}

function made(callee: unknown, args: unknown, tensorAt: (place: TensorPlace) => Tensor): unknown {
  const name = callee instanceof Named ? callee.name : 'a value';
  if (name === ORDERED_DICT) return {};
  if (name !== REBUILD || !Array.isArray(args)) throw new Error(`its pickle would call ${name}, and nothing is called here`);
  const [storage, offset, shape, strides] = args as [Storage, number, number[], number[]];
  return tensorAt({ storage: storage.key, type: storage.type, offset, shape, strides });
}
