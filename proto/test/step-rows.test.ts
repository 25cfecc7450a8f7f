import { describe, expect, it } from 'vitest';
import { promptLaneRows, promptLanes, solePromptRows } from '../src/index.ts';

it('a lane of prompts takes half of the rows of a lone worker, and never none', () => {
  expect([512, 7, 1].map(promptLaneRows)).toEqual([256, 4, 1]);
});

describe('rows of a step over a prompt that is alone', () => {
  it('give every lane some of it', () => {
    expect(solePromptRows(128 * promptLanes, 256)).toBe(128);
    expect(solePromptRows(200 * promptLanes - 1, 256)).toBe(200);
  });

  it('are no more than a lane takes, and not so few that experts are read for hardly any', () => {
    expect(solePromptRows(100_000, 256)).toBe(256);
    expect(solePromptRows(130, 256)).toBe(128);
    expect(solePromptRows(130, 64)).toBe(64);
  });
});
