import { SwitchyardError } from '@switchyard/proto';
import type { DecoderJson, TokenizerJson } from './tokenizer-folder.ts';

/** Which bytes a token stands for. Text is what the bytes of consecutive tokens spell; a token may hold part of a character. */
export interface TokenBytes {
  readonly vocab: number;
  /** Bytes of the longest token. */
  readonly longest: number;
  /** Empty for an id that the tokenizer does not know: models have padded vocabularies. */
  of(id: number): Uint8Array;
}

/**
 * Reads the table from tokenizer.json. Two kinds of vocabularies are known: byte-level (GPT-2 and descendants: each byte has a printable stand-in) and
 * SentencePiece with byte fallback ("▁" is a space, "<0x0A>" a byte).
 *
 * @throws SwitchyardError `bad_checkpoint` for any other decoder, by name.
 */
export function tokenBytes(tokenizer: TokenizerJson): TokenBytes {
  const decode = pieceDecoder(tokenizer.decoder);
  const pieces: string[] = [];
  for (const [piece, id] of vocabEntries(tokenizer)) pieces[id] = piece;
  const added: string[] = [];
  for (const token of tokenizer.added_tokens) added[token.id] = token.content;
  // A piece has a character or more for each byte, but for added tokens, which are text.
  let longest = 1;
  for (const spelled of [pieces, added]) for (const text of spelled) longest = Math.max(longest, Buffer.byteLength(text ?? ''));
  const known: (Uint8Array | undefined)[] = new Array(Math.max(pieces.length, added.length));
  return {
    vocab: known.length,
    longest,
    of(id) {
      let bytes = known[id];
      if (bytes === undefined) {
        // Added tokens are spelled as they are.
        bytes = added[id] !== undefined ? encoder.encode(added[id]) : pieces[id] !== undefined ? decode(pieces[id]) : EMPTY;
        if (id < known.length) known[id] = bytes;
      }
      return bytes;
    },
  };
}

const encoder = new TextEncoder();
const EMPTY = new Uint8Array(0);

function* vocabEntries(tokenizer: TokenizerJson): Iterable<[string, number]> {
  const { vocab } = tokenizer.model;
  // Unigram models list [piece, score] by id.
  if (Array.isArray(vocab)) for (let id = 0; id < vocab.length; id++) yield [vocab[id][0], id];
  else yield* Object.entries(vocab);
}

function pieceDecoder(decoder: DecoderJson | null): (piece: string) => Uint8Array {
  const types = decoder === null ? [] : decoder.type === 'Sequence' ? (decoder.decoders ?? []).map((d) => d.type) : [decoder.type];
  if (types.includes('ByteLevel')) return byteLevelBytes;
  if (types.includes('ByteFallback') || types.includes('Metaspace')) return sentencePieceBytes;
  throw new SwitchyardError(
    'bad_checkpoint',
    `tokenizer.json: decoder ${types.join(', ') || 'null'} is not supported; ByteLevel, ByteFallback and Metaspace are`,
  );
}

/** GPT-2's table: printable Latin-1 bytes stand for themselves, the others for U+0100 and up, in order. */
const byteOfChar = new Map<string, number>();
{
  let next = 0x100;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    byteOfChar.set(String.fromCharCode(printable ? byte : next++), byte);
  }
}

function byteLevelBytes(piece: string): Uint8Array {
  const bytes: number[] = [];
  for (const char of piece) {
    const byte = byteOfChar.get(char);
    if (byte === undefined) bytes.push(...encoder.encode(char));
    else bytes.push(byte);
  }
  return Uint8Array.from(bytes);
}

const FALLBACK = /^<0x([0-9A-Fa-f]{2})>$/;

function sentencePieceBytes(piece: string): Uint8Array {
  const fallback = FALLBACK.exec(piece);
  return fallback === null ? encoder.encode(piece.replaceAll('▁', ' ')) : Uint8Array.of(Number.parseInt(fallback[1], 16));
}
