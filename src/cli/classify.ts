/** `cmap classify IMAGE…`: one input, one line, with and without the defence. */
import { Command } from 'commander';
import { paperCifar10 } from '../cmap/options.ts';
import { classify } from '../cmap/vote.ts';
import { InputError } from '../engine/errors.ts';
import { resolveWeights } from '../formats/manifest.ts';
import { loadClassifier, shippedNetwork } from '../models.ts';
import { datasetOption } from './datasets.ts';
import { readImages } from './images.ts';
import { batchOf, batchOption } from './networks.ts';
import { addCmapOptions, addCommonOptions, openDevice } from './options.ts';
import { describeVotes, type PurifyOptions, purifyFiles } from './purify.ts';

export function classifyCommand(): Command {
  const command = new Command('classify')
    .description('Classify PNG or JPEG images without and with the defence, a line each.')
    .argument('<image...>', 'PNG or JPEG files of the model’s size')
    .option('--no-defence', 'the bare classifier only')
    .addOption(datasetOption('whose shipped networks are taken').default('fashion-mnist'))
    .option('--model <name>', 'another shipped consistency model')
    .option('--classifier <name>', 'another shipped classifier')
    .addOption(batchOption('images'));
  addCommonOptions(addCmapOptions(command, paperCifar10));
  return command.action(
    async (paths: string[], options: Omit<PurifyOptions, 'out'> & { defence: boolean }, command: Command) => {
      if (options.defence) {
        return purifyFiles(paths, { ...options, out: '' }, ({ images, classifier }) => {
          for (const { path, undefended, vote } of images) {
            const bare = classifier.classes[undefended];
            const defended = classifier.classes[vote.label];
            process.stdout.write(
              `${path}: undefended ${bare}; defended ${defended} (${describeVotes(vote, classifier.classes)})\n`,
            );
          }
        });
      }
      const idle = ['model', 'k', 'iterations', 'lr', 'alpha', 'lambda'].find(
        (name) => command.getOptionValueSource(name) === 'cli',
      );
      if (idle) throw new InputError(`--${idle} is of the defence, which --no-defence leaves out`);
      const batch = batchOf(options, 64);
      const name =
        options.classifier ?? shippedNetwork(options.dataset, 'classifier', 'name one by --classifier');
      resolveWeights(name);
      const device = await openDevice(options);
      const classifier = loadClassifier(device, name);
      const shape = classifier.net.imageShape;
      const size = shape[0] * shape[1] * shape[2];
      const all = await readImages(paths, shape);
      for (let from = 0; from < paths.length; from += batch) {
        const some = paths.slice(from, from + batch);
        const host = all.subarray(from * size, (from + some.length) * size);
        const x = device.tensor(host, [some.length, ...shape]);
        const labels = await classify(classifier.net, x);
        x.dispose();
        some.forEach((path, i) => {
          process.stdout.write(`${path}: undefended ${classifier.classes[labels[i] as number]}\n`);
        });
      }
    },
  );
}
