import { Finish, SwitchyardError } from '@switchyard/proto';
import { describe, expect, it } from 'vitest';
import { Answer, type AnswerSpec } from '../src/requests/answer.ts';
import { TokenPieces } from '../src/tokenizing/text-stream.ts';
import { tokenBytes } from '../src/tokenizing/token-bytes.ts';

/** SentencePiece's way: a beginning of sequence, and words that bring their space. */
const words = ['<s>', '▁Hello', '▁wörld', '!', 'a', 'b', '<st', 'op>', '<', 'st'];
const pieces = new TokenPieces(
  tokenBytes({
    added_tokens: [{ id: 0, content: '<s>', special: true, normalized: false }],
    model: { vocab: Object.fromEntries(words.map((word, id) => [word, id])) },
    decoder: { type: 'Metaspace' },
  }),
);
const ids = (...tokens: string[]) => tokens.map((token) => words.indexOf(token));

function answerOf(changes: Partial<AnswerSpec>) {
  const heard = { text: '', end: null as string | null, ends: 0 };
  const spec = {
    prompt: [0],
    prediction: [],
    stopStrings: [],
    stopTokens: [],
    minTokens: 0,
    skipSpecial: true,
    ...changes,
  } as unknown as AnswerSpec;
  const listener = {
    onPiece: (_: Answer, text: string) => {
      heard.text += text;
    },
    onEnd: (_: Answer, reason: string) => {
      heard.end = reason;
      heard.ends++;
    },
    onFailed: (_: Answer, error: Error) => {
      heard.end = error.message;
      heard.ends++;
    },
    onBroken: () => {},
    flush: () => {},
  };
  return { heard, answer: new Answer(0, spec, listener, pieces, new Set([0])) };
}

describe('a stop string', () => {
  it.each([
    ['that begins within the minimum and ends beyond it counts', 3, ['a', 'b', '<st', 'op>'], 'ab', 'stop'],
    ['of many pieces counts as well', 2, ['a', '<', 'st', 'op>'], 'a', 'stop'],
    ['that only seemed to begin there is text', 2, ['a', '<st', '<', 'b'], 'a<st<b', null],
    ['that ends within the minimum does not', 4, ['a', 'b', '<st', 'op>', 'a'], 'ab<stop>a', null],
  ])('%s', (_, minTokens, tokens, text, end) => {
    const { heard, answer } = answerOf({ stopStrings: ['<stop>'], minTokens });
    for (const token of ids(...tokens)) answer.accept(token, Finish.none, null, null);
    expect(heard).toMatchObject({ text, end });
  });

  it('that has not ended when the answer does is text', () => {
    const { heard, answer } = answerOf({ stopStrings: ['<stop>'], minTokens: 2 });
    for (const token of ids('a', '<st')) answer.accept(token, Finish.none, null, null);
    expect(heard.text).toBe('a');
    answer.acceptEnd();
    expect(heard).toMatchObject({ text: 'a<st', end: 'length' });
  });
});

describe('offsets of an echoed prompt', () => {
  const offsets = (echo: string, ...tokens: string[]) => {
    const prompt = Int32Array.from(ids(...tokens));
    const { answer } = answerOf({ prompt });
    answer.follow(echo);
    answer.acceptPrompt({ request: 0, logprob: tokens.slice(1).map(() => -1), top: [] });
    answer.accept(words.indexOf('a'), Finish.none, -1, null);
    return [...answer.promptReports!, ...answer.reports].map(({ offset }) => offset);
  };

  it('leave out what the tokenizer adds to a text', () => {
    expect(offsets('Hello wörld!', '<s>', '▁Hello', '▁wörld', '!')).toEqual([0, 0, 5, 11, 12]);
  });

  it('count control tokens that the prompt itself has', () => {
    expect(offsets('<s> Hello!', '<s>', '▁Hello', '!')).toEqual([0, 3, 9, 10]);
  });

  it('stay inside the text where the tokenizer writes it otherwise', () => {
    expect(offsets('hELLO', '<s>', '▁Hello', '!')).toEqual([0, 0, 5, 5]);
    expect(offsets('Ab!', 'a', 'b', '!')).toEqual([0, 1, 2, 3]);
  });
});

describe('an answer', () => {
  it('has reports and ids of its tokens for who asks, also of those that are no text', () => {
    const { answer } = answerOf({ returnTokenIds: true });
    for (const token of ids('a', '<s>')) answer.accept(token, Finish.none, null, null);
    expect([answer.reports, answer.ids]).toEqual([[], ids('a', '<s>')]);
    const scored = answerOf({}).answer;
    for (const token of ids('▁wörld', '<s>', 'b')) scored.accept(token, Finish.none, -1, null);
    expect(scored.reports.map(({ token, offset }) => [token, offset])).toEqual([
      [2, 0],
      [0, 6],
      [5, 6],
    ]);
    expect(scored.ids).toEqual([]);
  });

  it.each([
    [{ stopTokens: ids('b'), clientStopTokens: 1, includeStop: true }, 'ab'],
    [{ stopTokens: ids('b'), clientStopTokens: 1, includeStop: false }, 'a'],
    [{ stopTokens: ids('a', 'b'), clientStopTokens: 1, includeStop: true }, 'a'],
  ])('ends in a stop token where the client names that one and wants it: %j', (changes, text) => {
    const { heard, answer } = answerOf(changes);
    answer.accept(words.indexOf('a'), Finish.none, null, null);
    answer.accept(words.indexOf('b'), Finish.stop, null, null);
    expect(heard).toEqual({ text, end: 'stop', ends: 1 });
  });

  it.each([
    ['its bill comes', (answer: Answer) => answer.settle()],
    ['its worker is lost', (answer: Answer) => answer.fail(new SwitchyardError('worker_lost', 'gone'))],
  ])('that a stop string has ended waits for its bill, and ends once when %s', (_, comes) => {
    const { heard, answer } = answerOf({ stopStrings: ['b'], wantTraffic: true });
    expect(answer.accept(words.indexOf('a'), Finish.none, null, null)).toBe(false);
    expect(answer.awaitsBill).toBe(false);
    answer.settle();
    expect(answer.accept(words.indexOf('b'), Finish.none, null, null)).toBe(true);
    expect([answer.awaitsBill, answer.closed, heard]).toEqual([true, false, { text: 'a', end: null, ends: 0 }]);
    comes(answer);
    comes(answer);
    expect([answer.closed, heard]).toEqual([true, { text: 'a', end: 'stop', ends: 1 }]);
  });

  it('that fails says so once', () => {
    const { heard, answer } = answerOf({});
    answer.accept(words.indexOf('a'), Finish.none, null, null);
    for (let i = 0; i < 2; i++) answer.fail(new SwitchyardError('worker_lost', 'gone'));
    expect([answer.closed, heard]).toEqual([true, { text: 'a', end: 'gone', ends: 1 }]);
  });

  it('whose worker ends with it is ended there already', () => {
    const { heard, answer } = answerOf({ stopStrings: ['b'], wantTraffic: true });
    expect(answer.accept(words.indexOf('b'), Finish.length, null, null)).toBe(false);
    expect(heard).toEqual({ text: '', end: 'stop', ends: 1 });
  });
});
