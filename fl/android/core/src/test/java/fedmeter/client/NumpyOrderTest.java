package fedmeter.client;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;

import org.junit.Test;

/** Orders, beside those that NumPy 2.4 drew from the same seeds. */
public final class NumpyOrderTest {
    @Test
    public void ordersAreNumpys() {
        assertArrayEquals(new int[] {2, 4, 3, 0, 1}, NumpyOrder.permutation(5, 0, 0, 0, 0));
        assertArrayEquals(new int[] {8, 11, 10, 0, 5, 3, 6, 2, 9, 7, 1, 4}, NumpyOrder.permutation(12, 7, 1, 2, 3));
        assertArrayEquals(new int[] {0}, NumpyOrder.permutation(1, 1, 2, 3, 4));
    }

    @Test
    public void aSeedMayBeLongerThanTheGeneratorsPool() {
        assertArrayEquals(new int[] {6, 1, 8, 0, 3, 7, 5, 4, 2}, NumpyOrder.permutation(9, (1L << 40) + 5, 3, 0, 1));
    }

    @Test
    public void aLongOrderIsNumpysToItsEnd() {
        int[] order = NumpyOrder.permutation(5000, 1, 20, 5, 4);
        long sum = 0;
        for (int i = 0; i < order.length; i++) {
            sum += (long) i * order[i];
        }
        assertArrayEquals(new int[] {2187, 4468, 2499, 3612}, java.util.Arrays.copyOf(order, 4));
        assertEquals(31_215_044_698L, sum);
    }

    @Test
    public void aSeedBelowZeroIsRefusedAsByNumpy() {
        assertThrows(FedmeterException.Usage.class, () -> NumpyOrder.permutation(5, 0, -1, 0, 0));
    }
}
