import { Command } from 'commander';
import { benchCalibrateCommand } from './bench-calibrate.ts';
import { benchExactCommand } from './bench-exact.ts';
import { benchQualityCommand } from './bench-quality.ts';
import { benchServeCommand } from './bench-serve.ts';

export function benchCommand(): Command {
  return new Command('bench')
    .description('Measure a server: speed (serve), sameness (exact), quality (quality), constants of the cost model (calibrate)')
    .enablePositionalOptions()
    .addCommand(benchServeCommand(), { isDefault: true })
    .addCommand(benchCalibrateCommand())
    .addCommand(benchExactCommand())
    .addCommand(benchQualityCommand());
}
