/** All commands, as one tree. */
import { Command } from 'commander';
import { packageVersion } from '../formats/package-root.ts';
import { classifyCommand } from './classify.ts';
import { dataCommand } from './data.ts';
import { demoCommand } from './demo.ts';
import { doctorCommand } from './doctor.ts';
import { evalCommand } from './eval.ts';
import { forwardCommand } from './forward.ts';
import { gridCommand } from './grid.ts';
import { plotCommand } from './plot.ts';
import { purifyCommand } from './purify.ts';
import { qualityCommand } from './quality.ts';
import { tableCommand } from './table.ts';
import { trainCommand } from './train.ts';
import { tuneCommand } from './tune.ts';
import { verifyCommand } from './verify.ts';
import { webCommand } from './web.ts';
import { weightsCommand } from './weights.ts';

export function commandTree(): Command {
  const program = new Command('cmap')
    .description('Adversarial purification with consistency models on WebGPU.')
    .version(packageVersion())
    .configureHelp({ showGlobalOptions: true });
  for (const command of [
    demoCommand(),
    evalCommand(),
    tableCommand(),
    plotCommand(),
    gridCommand(),
    verifyCommand(),
    qualityCommand(),
    doctorCommand(),
    purifyCommand(),
    classifyCommand(),
    forwardCommand(),
    weightsCommand(),
    dataCommand(),
    tuneCommand(),
    trainCommand(),
    webCommand(),
  ])
    program.addCommand(command);
  return program;
}
