import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Command } from 'commander';
import { describe, expect, it } from 'vitest';
import { createProgram, withDescendants } from '../../cli/src/program.ts';
import { parseBytes } from '../../cli/src/terminal/quantity.ts';
import { options } from '../../coordinator/src/config.ts';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..', '..');
const pages = [
  ...['README.md', 'ARCHITECTURE.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'SECURITY.md'],
  ...readdirSync(path.join(root, 'docs'))
    .filter((name) => name.endsWith('.md'))
    .map((name) => `docs/${name}`),
].filter((page) => existsSync(path.join(root, page)));
const textOf = (page: string) => readFileSync(path.join(root, page), 'utf8');

/** Command lines that a page shows: lines of a code block that begin with the program, and inline code that does. */
function commandLines(text: string): string[] {
  const lines: string[] = [];
  let fenced = false;
  for (const line of text.replaceAll('\\\n', ' ').split('\n')) {
    if (line.trimStart().startsWith('```')) fenced = !fenced;
    else if (fenced) lines.push(line.replace(/^[$>]\s+/, '').trim());
    else lines.push(...[...line.matchAll(/`([^`]+)`/g)].map((match) => match[1]));
  }
  return lines
    .map((line) => line.replace(/^npm start --\s/, 'switchyard up ').replace(/^npx /, ''))
    .filter((line) => line.startsWith('switchyard '))
    .map((line) => line.split(/\s+[#|<>&]/)[0]);
}

/** What is wrong with a command line, or null: an unknown command or flag. Flags after `--` are those of `up`. */
function complaint(program: Command, line: string): string | null {
  let command = program;
  const words = line.split(/\s+/).slice(1);
  while (words.length > 0) {
    const child = command.commands.find((c) => c.name() === words[0]);
    if (!child) break;
    command = child as Command;
    words.shift();
  }
  if (command === program && words[0] && !words[0].startsWith('-')) return `no command ${words[0]}`;
  if (command.commands.length > 0 && words[0] && /^[a-z]/.test(words[0])) return `no command ${words[0]} in ${command.name()}`;
  const passesThrough = command.name() === 'worker' || command.name() === 'coordinator';
  for (const word of words) {
    if (word === '--') command = program.commands.find((c) => c.name() === 'up') as Command;
    const flag = /^(--?[a-z][a-z-]*)/.exec(word)?.[1];
    if (!flag || passesThrough) continue;
    const known =
      command.options.some((option) => option.long === flag || option.short === flag) || flag === '--help' || flag === '--version';
    if (!known) return `${command.name()} has no ${flag}`;
  }
  return null;
}

describe('documentation', () => {
  const program = createProgram();

  it.each(pages)('%s shows only commands and flags that exist', (page) => {
    const complaints = commandLines(textOf(page)).flatMap((line) => complaint(program, line.replace(/[\]).,;:]+$/, '')) ?? []);
    expect(complaints).toEqual([]);
  });

  it('would notice a command or flag that does not exist', () => {
    expect(complaint(program, 'switchyard fly')).toBe('no command fly');
    expect(complaint(program, 'switchyard bench fly')).toBe('no command fly in bench');
    expect(complaint(program, 'switchyard chat --fly high')).toBe('chat has no --fly');
    expect(complaint(program, 'switchyard bench serve -- --fly')).toBe('up has no --fly');
  });

  it.each(pages)('%s links only to files that exist', (page) => {
    const links = [...textOf(page).matchAll(/\]\(([^)#\s]+)(?:#[^)]*)?\)/g)]
      .map((match) => match[1])
      .filter((link) => !/^[a-z]+:/.test(link));
    expect(links.filter((link) => !existsSync(path.join(root, path.dirname(page), link)))).toEqual([]);
  });

  it('names every command on the first page', () => {
    const start = textOf('docs/start.md');
    const leaves = withDescendants(program).filter((command) => command !== program && command.commands.length === 0);
    const named = (command: Command): string =>
      (command.parent && command.parent !== program ? `${named(command.parent)} ` : 'switchyard ') + command.name();
    const missing = leaves.filter((command) => !start.includes(`\`${named(command)}`) && command.parent?.name() !== 'place');
    expect(missing.map(named)).toEqual([]);
  });

  it('says the defaults that `up` leaves to the coordinator', () => {
    const up = program.commands.find((command) => command.name() === 'up')!;
    // What it decides itself.
    const own = ['nodes', 'workersPerNode'];
    for (const option of up.options) {
      const theirs = options[option.attributeName() as keyof typeof options]?.fallback;
      if (theirs === undefined || theirs === null || own.includes(option.attributeName()) || option.isBoolean() || option.negate) continue;
      const said = option.defaultValue ?? /\(default: (\w+)\)$/.exec(option.description)?.[1];
      const value = typeof theirs === 'number' && typeof said === 'string' ? parseBytes(said) : said;
      expect(value, option.long).toBe(theirs);
    }
  });

  it('gives every command a description and every long option one too', () => {
    for (const command of withDescendants(program)) {
      expect(command.description(), command.name()).not.toBe('');
      for (const option of command.options) expect(option.description, `${command.name()} ${option.long}`).not.toBe('');
    }
  });
});
