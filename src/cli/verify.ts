/** `cmap verify DIR`: is the evaluation to be trusted? */
import { join } from 'node:path';
import { Command } from 'commander';
import { InputError } from '../engine/errors.ts';
import { checkSeeds } from '../eval/seeds.ts';
import { readEvaluation } from '../eval/store.ts';
import { verifyEvaluation } from '../eval/verify.ts';
import { writeFileAtomic } from '../report/files.ts';
import { formatTable } from '../report/table.ts';
import { dataOption, loadImages } from './datasets.ts';
import { addCommonOptions, type CommonOptions, openDevice, parseInteger } from './options.ts';
import { checkSubject, defaultBatch, openSubject, type Subject } from './subject.ts';

interface VerifyFlags extends CommonOptions {
  readonly count: number;
  readonly batch?: number;
  readonly data?: string;
  readonly noise: number;
}

export function verifyCommand(): Command {
  const command = new Command('verify')
    .description(
      'The checklist of Carlini et al.: pass, fail or not tested; fails with exit 1. Writes verify.json.',
    )
    .argument('<dir>', 'folder of cmap eval')
    .option('--count <n>', 'images of the experiments; 0 reads the records alone', parseInteger, 16)
    .option('--noise <n>', 'random points an image of the noise item; 0 leaves it out', parseInteger, 10000)
    .option('--batch <n>', 'images together', parseInteger)
    .addOption(dataOption());
  return addCommonOptions(command).action(verify);
}

async function verify(folder: string, flags: VerifyFlags): Promise<void> {
  if (flags.count < 0) throw new InputError(`--count must be at least 0, got ${flags.count}`);
  if (flags.noise < 0) throw new InputError(`--noise must be at least 0, got ${flags.noise}`);
  if (flags.batch !== undefined && flags.batch < 1)
    throw new InputError(`--batch must be at least 1, got ${flags.batch}`);
  const { config, records } = readEvaluation(folder);
  checkSeeds(folder, config, records);
  const source = config.source as unknown as Subject | undefined;
  if (!source?.dataset)
    throw new InputError(`${folder}: config.json does not say how to open the networks (source is missing)`);
  const subject = { ...source, data: flags.data ?? source.data };
  const data = await loadImages(subject, config.images);
  const device = await openDevice(flags);
  const opened = await openSubject(device, subject, flags);
  for (const role of ['classifier', 'generator'] as const) {
    const [before, now] = [config[role]?.sha256, opened[role]?.sha256];
    if (before !== now)
      throw new InputError(
        `${folder}: evaluated a ${role} with sha256 ${before}, the file now has ${now}; give back the old one or evaluate anew`,
      );
  }
  await checkSubject(device, opened, data);
  const items = await verifyEvaluation(device, {
    folder,
    config,
    records,
    defence: opened.defence,
    data,
    count: Math.min(flags.count, data.ids.length),
    noise: flags.noise,
    batch: flags.batch ?? Math.min(defaultBatch(device, subject, opened), Math.max(1, flags.count)),
    onProgress: (what) => {
      if (!flags.quiet) process.stderr.write(`verify: ${what}\n`);
    },
  });
  const path = join(folder, 'verify.json');
  const count = (result: string) => items.filter((item) => item.result === result).length;
  const totals = { pass: count('pass'), fail: count('fail'), notTested: count('not-tested') };
  const adapter = `${device.adapter.name}, ${device.adapter.driver}`;
  writeFileAtomic(path, `${JSON.stringify({ schema: 1, ...totals, adapter, items }, null, 1)}\n`);
  const rows = items.map(({ id, result, claim, detail }) => [id, result, claim, detail]);
  process.stdout.write(
    `${formatTable(['item', 'result', 'claim', 'found'], rows)}\n${totals.pass} pass, ${totals.fail} fail, ${totals.notTested} not tested\n${path}\n`,
  );
  if (totals.fail > 0) process.exitCode = 1;
}
