import { Command } from 'commander';
import { traceConvertCommand } from './trace-convert.ts';
import { traceInfoCommand } from './trace-info.ts';
import { traceRecordCommand } from './trace-record.ts';

export function traceCommand(): Command {
  return new Command('trace')
    .description('Record and look at routing traces: which experts real requests use')
    .addCommand(traceRecordCommand())
    .addCommand(traceInfoCommand())
    .addCommand(traceConvertCommand());
}
