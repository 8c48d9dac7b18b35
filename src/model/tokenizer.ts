/**
 * Text to token ids and back, from a folder's tokenizer.json and tokenizer_config.json.
 * Byte-level BPE by @huggingface/tokenizers, with the engine's Unicode tables kept out (see tokenizer-definition.ts).
 * @module
 */
import { join } from 'node:path';
import { Tokenizer as BpeTokenizer } from '@huggingface/tokenizers';
import { MinipodError } from '../protocol/errors.ts';
import type { ChatMessage } from '../protocol/prompt.ts';
import { ChatRoles } from './chat-roles.ts';
import { type ChatTemplateOptions, compileChatTemplate, findChatTemplate } from './chat-template.ts';
import { readJsonFile, readJsonFileIfPresent, reason } from './json-file.ts';
import { BYTE_LETTERS, defineTokenizer } from './tokenizer-definition.ts';
import { newUtf8Decoder } from './utf8-decoder.ts';

export type Tokenizer = {
  /** Special tokens written in the text are parsed as such, as Hugging Face does. `addSpecialTokens` puts bos before it, if the model has one. */
  encode(text: string, options: { readonly addSpecialTokens: boolean }): number[];
  /** Bytes that are no UTF-8 become U+FFFD; ids without a token become nothing. Spaces are never "cleaned up". */
  decode(ids: readonly number[], options: { readonly skipSpecialTokens: boolean }): string;
  /** The exact bytes of a token: part of a character, perhaps. Empty for an id without a token (the vocabulary of a model is often padded). Not to be written to. */
  tokenBytes(id: number): Uint8Array;
  /** The token alone as text, U+FFFD where it is part of a character. */
  tokenText(id: number): string;
  /** A conversation in the model's own format; its template writes bos itself. Throws `invalid_request` if there is no template or it refuses. */
  renderChatTemplate(messages: readonly ChatMessage[], options: ChatTemplateOptions): string;
  /** Throws `invalid_request` for messages that the chat template would leave out, since it does not know their role. */
  checkChatRoles(messages: readonly ChatMessage[]): void;
  readonly hasChatTemplate: boolean;
  /** The highest id with a token, plus 1. */
  readonly vocabSize: number;
  readonly bosTokenId: number | null;
  readonly specialTokenIds: ReadonlySet<number>;
};

const NO_BYTES = new Uint8Array(0);
const SPECIAL_TOKEN_FIELDS = ['bos_token', 'eos_token', 'unk_token', 'pad_token', 'sep_token', 'cls_token', 'mask_token'] as const;

/** Throws `invalid_checkpoint` naming the file and what in it cannot be served. */
export async function loadTokenizer(folder: string): Promise<Tokenizer> {
  const file = join(folder, 'tokenizer.json');
  const definition = defineTokenizer(readJsonFile(file), file);
  const configValue = readJsonFileIfPresent(join(folder, 'tokenizer_config.json')) ?? {};
  if (typeof configValue !== 'object' || Array.isArray(configValue))
    throw new MinipodError('invalid_checkpoint', `${join(folder, 'tokenizer_config.json')}: expected an object`);
  const config = configValue as { readonly [key: string]: unknown };
  const bpe = buildBpe(definition, file);

  const contents = new Map(definition.addedTokens.map(({ id, content }) => [id, content]));
  const specialTokenIds = new Set(definition.addedTokens.filter(({ special }) => special).map(({ id }) => id));
  const specialTokens = Object.fromEntries(
    SPECIAL_TOKEN_FIELDS.flatMap((field) => (tokenContent(config[field]) === null ? [] : [[field, tokenContent(config[field]) ?? '']])),
  );
  const bosToken = specialTokens['bos_token'];
  const bosTokenId = bosToken === undefined ? null : (bpe.token_to_id(bosToken) ?? null);
  const vocabulary = bpe.model?.vocab ?? [];
  const source = findChatTemplate(folder, config);
  const template = source === null ? null : compileChatTemplate(source, specialTokens);
  const roles = template && new ChatRoles(template);

  const encode: Tokenizer['encode'] = (text, { addSpecialTokens }) => {
    const { ids } = bpe.encode(text, { add_special_tokens: addSpecialTokens });
    // Most published tokenizers leave bos to the config; some have a post-processor that has put it there already.
    if (addSpecialTokens && bosTokenId !== null && config['add_bos_token'] !== false && ids[0] !== bosTokenId) ids.unshift(bosTokenId);
    return ids;
  };

  const bytes: (Uint8Array | undefined)[] = [];
  const tokenBytes = (id: number): Uint8Array => {
    const known = bytes[id];
    if (known !== undefined) return known;
    const content = contents.get(id);
    const token = vocabulary[id];
    const found = content !== undefined ? new TextEncoder().encode(content) : token !== undefined ? bytesOfLetters(token) : NO_BYTES;
    if (token !== undefined) bytes[id] = found;
    return found;
  };
  const decode: Tokenizer['decode'] = (ids, { skipSpecialTokens }) => {
    const shown = skipSpecialTokens ? ids.filter((id) => !specialTokenIds.has(id)) : ids;
    return newUtf8Decoder().decode(concatenate(shown.map(tokenBytes)));
  };
  const renderChatTemplate: Tokenizer['renderChatTemplate'] = (messages, options) => {
    if (template === null)
      throw new MinipodError('invalid_request', `messages: the model in ${folder} has no chat template; pass a text or token ids`, { param: 'messages' });
    return template(messages, options);
  };
  return {
    encode,
    decode,
    tokenBytes,
    tokenText: (id) => newUtf8Decoder().decode(tokenBytes(id)),
    renderChatTemplate,
    checkChatRoles: (messages) => roles?.check(messages),
    hasChatTemplate: template !== null,
    vocabSize: vocabulary.length,
    bosTokenId,
    specialTokenIds,
  };
}

function buildBpe({ json, normalise }: ReturnType<typeof defineTokenizer>, file: string): BpeTokenizer {
  try {
    // The config's cleaning and lower-casing options belong to older kinds of tokenizers.
    const bpe = new BpeTokenizer(json, { clean_up_tokenization_spaces: false });
    // The library calls it as a plain function.
    if (normalise !== null) bpe.normalizer = normalise as unknown as BpeTokenizer['normalizer'];
    return bpe;
  } catch (error) {
    throw new MinipodError('invalid_checkpoint', `${file}: ${reason(error)}`, { cause: error });
  }
}

const BYTE_OF_LETTER: ReadonlyMap<string, number> = new Map(BYTE_LETTERS.map((letter, byte) => [letter, byte]));

/** A token of the vocabulary that is not byte-level stands for its own text. */
function bytesOfLetters(token: string): Uint8Array {
  const bytes = new Uint8Array(token.length);
  for (let at = 0; at < token.length; at++) {
    const byte = BYTE_OF_LETTER.get(token[at] ?? '');
    if (byte === undefined) return new TextEncoder().encode(token);
    bytes[at] = byte;
  }
  return bytes;
}

function concatenate(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(parts.reduce((total, part) => total + part.byteLength, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.byteLength;
  }
  return whole;
}

/** A special token is written as text or as an object with its text. */
function tokenContent(value: unknown): string | null {
  if (typeof value === 'string') return value;
  const content = (value as { content?: unknown } | null | undefined)?.content;
  return typeof content === 'string' ? content : null;
}
