/** `cmap data`: puts a published data set where loading finds it. */
import { resolve } from 'node:path';
import { Command } from 'commander';
import { cifar10Files } from '../data/cifar10.ts';
import { fashionMnistFiles } from '../data/fashion-mnist.ts';
import { type Obtained, type ObtainOptions, obtainCifar10, obtainFashionMnist } from '../data/obtain.ts';
import { dataFolder } from '../data/published.ts';
import { InputError } from '../engine/errors.ts';
import { progress } from '../report/progress.ts';

interface DataSet {
  readonly title: string;
  readonly origin: string;
  readonly load: string;
  obtain(folder: string, options: ObtainOptions): Promise<Obtained>;
}

/** @param published what is downloaded, and the sums of it; a test has its own */
export function dataCommand(published = { cifar10: cifar10Files, fashionMnist: fashionMnistFiles }): Command {
  const sets: Readonly<Record<string, DataSet>> = {
    cifar10: {
      title: 'CIFAR-10',
      origin: 'Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009; no licence is stated',
      load: 'loadCifar10',
      obtain: (folder, options) => obtainCifar10(folder, options, published.cifar10),
    },
    'fashion-mnist': {
      title: 'Fashion-MNIST',
      origin: 'Xiao, Rasul, Vollgraf, arXiv 1708.07747; MIT licence, Zalando SE',
      load: 'loadFashionMnist',
      obtain: (folder, options) => obtainFashionMnist(folder, options, published.fashionMnist),
    },
  };
  const names = Object.keys(sets);
  return new Command('data')
    .description('Get a data set: download it, or take it from a folder; check it and put it in its place.')
    .argument('<name>', names.join(' or '))
    .option('--from <folder>', 'take the files from here: archives, or what was in them; no network is used')
    .option('--to <folder>', 'put them here (default: $CMAP_DATA/NAME, else NAME in ~/.cache/cmap)')
    .option('-q, --quiet', 'no progress')
    .action(async (name: string, { from, to, quiet }: { from?: string; to?: string; quiet?: boolean }) => {
      const set = Object.hasOwn(sets, name) ? sets[name] : undefined;
      if (!set) throw new InputError(`data: '${name}' is not known; there are ${names.join(' and ')}`);
      const usual = resolve(dataFolder(name));
      const folder = to === undefined ? usual : resolve(to);
      const { how, files, size } = await set.obtain(folder, {
        from,
        wayOut: `run the same command to go on, or get the file elsewhere and name its folder: cmap data ${name} --from FOLDER`,
        onDownload: (file) => showDownload(file.name, quiet),
      });
      const done = {
        there: 'was there already',
        copied: `copied from ${from ?? folder}`,
        downloaded: 'downloaded',
      };
      const where = folder === usual ? '' : `, folder: ${JSON.stringify(folder)}`;
      process.stdout.write(
        [
          `${set.title}: ${done[how]}; ${files.length} file${files.length === 1 ? '' : 's'}, ${megabytes(size)} MB, as published`,
          `  in   ${folder}`,
          `  use  ${set.load}({ split: 'test'${where} })`,
          `  by   ${set.origin}`,
          '',
        ].join('\n'),
      );
    });
}

const megabytes = (bytes: number) => (bytes / 1e6).toFixed(1);

/** A line of progress that begins when the first bytes are announced, and counts those that are still to come. */
function showDownload(name: string, quiet?: boolean) {
  let begin = 0;
  let line: ReturnType<typeof progress> | undefined;
  return {
    progress: (done: number, size: number) => {
      if (!line || done < begin) {
        line?.stop();
        begin = done;
        const resumed = begin > 0 ? ` from ${megabytes(begin)} MB on` : '';
        line = progress(`${name}${resumed}, MB`, Math.ceil((size - begin) / 1e6), { quiet });
      }
      line.update(Math.floor((done - begin) / 1e6));
    },
    end: () => line?.stop(),
  };
}
