import type { ApiClient } from '../api/client.ts';
import { randomIdPrompts, tokenizeByServer } from '../load/prompts.ts';
import type { Question } from './observation.ts';

/** Openings in several styles, so that the prompts use different experts. Public domain, or ours. */
const openings = [
  'It was a dark night, and the captain stood alone upon the deck while the wind rose from the south-west and the crew',
  'def read_file(path):\n    """Return the text of a file, or None when there is no such file."""\n    try:\n        with open(path) as',
  'And God said unto Moses, Go in unto Pharaoh, and tell him, Thus saith the Lord God of the Hebrews, Let my people',
  'It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a wife. However little',
  'ROMEO:\nBut, soft! what light through yonder window breaks?\nIt is the east, and Juliet is the sun.\n',
  'Fellow citizens of the Senate and of the House of Representatives: The state of our Union is a matter on which',
  'class Queue:\n    def __init__(self, maxsize=0):\n        self.maxsize = maxsize\n        self.items = []\n\n    def put(self, item):\n',
  'The whale, the whale! Up helm, up helm! Oh, all ye sweet powers of air, now hug me close! Let not',
];

export interface QuestionOptions {
  model: string;
  /** Ids below this may be asked. */
  vocab: number;
  count: number;
  others: number;
  maxTokens: number;
  temperature: number;
  topLogprobs: number;
}

/**
 * The questions to compare and the others that keep the server busy. Prompts go as token ids where the server tells them, because some comparisons need to
 * know the ids; as text elsewhere. The others have various lengths and random ids, so that batches keep changing shape.
 */
export async function makeQuestions(
  client: ApiClient,
  options: QuestionOptions,
  signal: AbortSignal,
): Promise<{ questions: Question[]; others: Question[] }> {
  const { model, maxTokens, temperature, topLogprobs } = options;
  const seedOf = (index: number) => (temperature === 0 ? null : 1000 + index);
  const questions: Question[] = [];
  for (let index = 0; index < options.count; index++) {
    const text = openings[index % openings.length] + (index < openings.length ? '' : ` (${index})`);
    const prompt = (await tokenizeByServer(client, model, text, signal)) ?? text;
    questions.push({ model, prompt, maxTokens, temperature, seed: seedOf(index), topLogprobs });
  }
  const others = Array.from({ length: options.others }, (_, index): Question => {
    const prompt = randomIdPrompts(5 + ((index * 37) % 90), 0, options.vocab, 77 + index)();
    return { model, prompt, maxTokens: 8 + ((index * 13) % 40), temperature, seed: seedOf(index), topLogprobs };
  });
  return { questions, others };
}
