import os from 'node:os';
import type { Fit, LoadOptions, ModelInspection } from '@switchyard/worker';
import { Command, InvalidArgumentError, Option } from 'commander';
import { checkModelFolder } from '../terminal/model-folder.ts';
import { formatBytes, parseBytes } from '../terminal/quantity.ts';
import { textTable } from '../terminal/table.ts';
import { print } from '../terminal/visible.ts';

type NumericClass = LoadOptions['numericClass'];

interface InspectOptions {
  memory?: number[];
  numeric: NumericClass['activations'];
  expertDtype: NumericClass['experts'];
  denseDtype: NumericClass['dense'];
  json?: boolean;
}

/** Memory of common devices, for a first idea of what would hold the model. */
const usualMemory = [8, 16, 24, 48, 80].map((gib) => gib * 1024 ** 3);

export function modelInspectCommand(): Command {
  return new Command('inspect')
    .description('Say what a checkpoint is, how large its parts are and what fits where, without loading it')
    .argument('<dir>', 'model folder in Hugging Face layout')
    .option('--memory <list>', 'memory of a worker, like 512M or 8GiB,24GiB (default: this machine and some usual sizes)', memoryList)
    .addOption(
      new Option('--numeric <class>', 'what the inputs of matrices are rounded to').choices(['auto', 'f32', 'bf16']).default('auto'),
    )
    .addOption(new Option('--expert-dtype <dtype>', 'how expert weights are held').choices(['stored', 'int8', 'int4']).default('stored'))
    .addOption(new Option('--dense-dtype <dtype>', 'how other weights are held').choices(['stored', 'int8']).default('stored'))
    .option('--json', 'print as JSON')
    .addHelpText(
      'after',
      `
Examples:
  $ switchyard model inspect models/shunter-16m
  $ switchyard model inspect /models/Mixtral-8x7B --expert-dtype int8 --memory 24GiB,48GiB`,
    )
    .action(async (dir: string, options: InspectOptions) => {
      checkModelFolder(dir);
      // Only here: the kernels that it loads may be what is wrong with a machine, and no other command needs them.
      const { fitInto, inspectModel } = await import('@switchyard/worker');
      const numericClass: NumericClass = {
        activations: options.numeric,
        experts: options.expertDtype,
        dense: options.denseDtype,
        sum: 'exact',
      };
      const inspection = inspectModel(dir, numericClass);
      const { common, steps, expert, kvPerToken } = inspection.residentBytes;
      const experts = inspection.experts * inspection.moeLayers.length;
      const memory = options.memory ?? [os.totalmem(), ...usualMemory];
      const fits = [...new Set(memory)].sort((a, b) => a - b).map((bytes) => fitInto(bytes, common + steps, expert, experts, kvPerToken));
      const report = { format: 'switchyard-model', version: 1, ...inspection, fits };
      print(options.json ? `${JSON.stringify(report, null, 2)}\n` : formatInspection(inspection, fits));
    });
}

function memoryList(text: string): number[] {
  return text.split(',').map((part) => {
    const bytes = parseBytes(part);
    if (bytes === null) throw new InvalidArgumentError('It must be sizes like 512M or 8GiB, separated by commas.');
    return bytes;
  });
}

function formatInspection(model: ModelInspection, fits: Fit[]): string {
  const { parameters, residentBytes, storedBytes } = model;
  const moe = model.moeLayers.length;
  const facts = [
    ['type', model.modelType],
    ['layers', `${model.layers}, ${moe} of them with ${model.experts} experts, top-${model.topK}`],
    ['width', `${model.hidden}, vocabulary ${model.vocab}`],
    ['context', `${model.maxContext} tokens`],
    ['parameters', `${millions(parameters.total)}, ${millions(parameters.active)} of them for one token`],
    ['experts stored', model.expertDType ?? '-'],
    ['class', model.numericClass],
    [
      'resident',
      `${formatBytes(residentBytes.common)} on every worker and ${formatBytes(residentBytes.steps)} for its steps, ${formatBytes(residentBytes.expert)} an expert, ${formatBytes(residentBytes.allExperts)} all experts`,
    ],
    ['KV cache', `${formatBytes(residentBytes.kvPerToken)} a token`],
  ].map(([name, value]) => `${name.padEnd(15)} ${value}`);
  const total = Object.values(storedBytes).reduce((sum, bytes) => sum + bytes, 0);
  const parts = Object.entries(storedBytes)
    .filter(([, bytes]) => bytes > 0)
    .sort(([, a], [, b]) => b - a)
    .map(([part, bytes]) => [part, formatBytes(bytes), `${((100 * bytes) / total).toFixed(1)} %`]);
  const fitRows = fits.map((fit) => [
    formatBytes(fit.memoryBytes),
    fit.expertsPerWorker < 0 ? 'too small' : fit.expertsPerWorker,
    fit.workersNeeded ?? '-',
    fit.workersNeeded === null ? '-' : fit.kvTokens,
  ]);
  return [
    model.dir,
    '',
    ...facts,
    '',
    textTable(['part', 'stored', 'share'], [...parts, ['all', formatBytes(total), '100 %']]),
    '',
    textTable(['memory a worker', 'experts it holds', 'workers needed', 'KV tokens left'], fitRows),
    '',
  ].join('\n');
}

function millions(count: number): string {
  return count >= 1e9 ? `${(count / 1e9).toFixed(2)} billion` : `${(count / 1e6).toFixed(1)} million`;
}
