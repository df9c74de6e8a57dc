package fedmeter.client;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.util.Arrays;
import java.util.Random;
import org.junit.Test;

/** The stop rule: the same decisions as fl/steps.py takes, on a clock that is told what time it is. */
public final class StepsTest {
    private final FakeClock clock = new FakeClock();

    private Steps fit(double cutoffS, int planned, double... stepsS) {
        Steps steps = new Steps(clock, cutoffS);
        steps.plan(planned);
        int i = 0;
        while (steps.next()) {
            clock.advance(stepsS[Math.min(i++, stepsS.length - 1)]);
        }
        return steps;
    }

    @Test
    public void withoutACutoffAllStepsAreDone() {
        Steps steps = fit(0, 3, 1, 2, 3);
        assertEquals("completed", steps.stoppedBy());
        assertArrayEquals(new double[] {1, 2, 3}, steps.durationsS(), 1e-12);
        assertEquals(1, steps.warmupSteps());
    }

    @Test
    public void aFitEndsBeforeTheStepThatWouldCross() {
        Steps steps = fit(10.5, 100, 1);
        assertEquals(10, steps.done());
        assertEquals("cutoff", steps.stoppedBy());
        assertEquals(100, steps.planned());
    }

    @Test
    public void oneStepIsDoneAtLeast() {
        Steps steps = fit(0.001, 5, 1);
        assertEquals(1, steps.done());
        assertEquals("cutoff", steps.stoppedBy());
    }

    @Test
    public void theFirstStepIsLeftOutOnceThereAreOthers() {
        assertEquals("after 5 s the first step's 5 s are what another may take", 1, fit(9, 100, 5, 1).done());
        assertEquals("then it is 1 s", 9, fit(13.5, 100, 5, 1).done());
    }

    @Test
    public void aCutoffAfterTheLastStepIsNone() {
        Steps steps = fit(3.5, 3, 1);
        assertEquals(3, steps.done());
        assertEquals("completed", steps.stoppedBy());
    }

    @Test
    public void theTimeBeforeTheFirstStepCounts() {
        Steps steps = new Steps(clock, 3.5);
        clock.advance(2);
        steps.plan(10);
        while (steps.next()) {
            clock.advance(1);
        }
        assertEquals(1, steps.done());
    }

    @Test
    public void aLoopThatIsLeftEarlyHasItsLastStep() {
        Steps steps = new Steps(clock, 0);
        steps.plan(10);
        assertTrue(steps.next());
        clock.advance(2);
        steps.finish();
        steps.finish();
        assertArrayEquals(new double[] {2}, steps.durationsS(), 1e-12);
    }

    @Test
    public void aFitWithoutStepsIsNone() {
        assertThrows(FedmeterException.Usage.class, () -> new Steps(clock, 0).plan(0));
        assertThrows(IllegalStateException.class, () -> new Steps(clock, 0).next());
        assertFalse(new Steps(clock, 0).isUsed());
    }

    @Test
    public void theQuantileIsThatOfSortedRecentValues() {
        Random random = new Random(7);
        RecentQuantile quantile = new RecentQuantile();
        long[] values = new long[3000];
        for (int i = 0; i < values.length; i++) {
            values[i] = random.nextInt(500); // with values that are met again
            quantile.add(values[i]);
            long[] recent = Arrays.copyOfRange(values, Math.max(0, i + 1 - RecentQuantile.WINDOW), i + 1);
            Arrays.sort(recent);
            assertEquals(recent[(int) Math.ceil(0.95 * recent.length) - 1], quantile.value());
        }
    }
}
