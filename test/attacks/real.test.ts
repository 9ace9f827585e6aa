/** PGD on two small robust networks and the first 16 CIFAR-10 test images beside PyTorch's; all of it in test/full. */
import { suite } from 'uvu';
import { assertAgrees, comparePgd, realPgdRows } from './real.ts';

const test = suite('attack real');

for (const row of realPgdRows().filter(({ key }) => ['resnet2b-2', 'cifar_cnn_a_adv-8'].includes(key))) {
  test(`${row.key}/255: PyTorch's successes and losses`, async () => {
    const found = await comparePgd(row, 16);
    if (found) assertAgrees(found);
  });
}

test.run();
