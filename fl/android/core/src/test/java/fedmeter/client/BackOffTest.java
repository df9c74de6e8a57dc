package fedmeter.client;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import io.grpc.Status;
import java.util.Optional;
import java.util.Random;
import org.junit.Test;

/** Pauses, on a clock that they advance. */
public final class BackOffTest {
    private final FakeClock clock = new FakeClock();
    private double longestS;
    private int pauses;

    private BackOff backOff(double maxWaitS) {
        return new BackOff(maxWaitS, clock, new Random(2), seconds -> {
            longestS = Math.max(longestS, seconds);
            pauses++;
            clock.advance(seconds);
        });
    }

    @Test
    public void theyGrowToALimitAndEndInTime() {
        BackOff backOff = backOff(60);
        FedmeterException.Precondition end = assertThrows(FedmeterException.Precondition.class, () -> {
            while (true) {
                backOff.pause("host:1", Status.UNAVAILABLE);
            }
        });
        assertTrue(end.getMessage(), end.getMessage().startsWith("host:1: no server for "));
        assertEquals(3, end.exitCode());
        assertTrue(clock.nanos() <= 60e9);
        assertTrue(longestS > 2 && longestS <= BackOff.LONGEST_PAUSE_S);
        assertTrue("some at the beginning, then one in 2.5 s: " + pauses, pauses > 15 && pauses < 60);
    }

    @Test
    public void aServerBeginsThemAnew() throws InterruptedException {
        BackOff backOff = backOff(10);
        for (int i = 0; i < 20; i++) {
            clock.advance(9);
            backOff.pause("host:1", Status.UNAVAILABLE);
            backOff.reset();
        }
        assertTrue(longestS <= BackOff.FIRST_PAUSE_S);
    }

    @Test
    public void aNoIsFinal() {
        BackOff backOff = backOff(60);
        assertThrows(FedmeterException.Refused.class, () -> backOff.pause("host:1", Status.UNAUTHENTICATED));
        assertThrows(FedmeterException.Refused.class, () -> backOff.pause("host:1", Status.INVALID_ARGUMENT));
    }

    @Test
    public void onlyAHeartbeatThatMakesSenseIsTaken() {
        assertEquals(30, Session.heartbeat(Optional.of("30")).getAsDouble(), 0);
        for (String nonsense : new String[] {"", "0.5", "-1", "NaN", "1e9", "soon"}) {
            assertTrue(nonsense, Session.heartbeat(Optional.of(nonsense)).isEmpty());
        }
        assertTrue(Session.heartbeat(Optional.empty()).isEmpty());
    }

    @Test
    public void whatIsLoopback() {
        for (String address : new String[] {"localhost:1", "127.0.0.1:80", "127.9.9.9:80", "[::1]:80"}) {
            assertTrue(address, Security.isLoopback(address));
        }
        for (String address : new String[] {"10.0.0.1:80", "localhost.evil:1", "127.0.0.1.evil:1", "x127.0.0.1:1"}) {
            assertTrue(address, !Security.isLoopback(address));
        }
    }
}
