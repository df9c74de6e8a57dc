package fedmeter.client;

import static org.junit.Assert.assertEquals;

import fedmeter.measurement.MeasurementOuterClass.Measurement;
import fedmeter.measurement.MeasurementOuterClass.Span;
import java.util.stream.Collectors;
import org.junit.Test;

/** Spans are sent once, in order, and again only where they may not have arrived. */
public final class SpoolTest {
    private final Spool spool = new Spool();

    private void add(int from, int to) {
        for (int i = from; i < to; i++) {
            spool.add(Span.newBuilder().setSpanId(String.valueOf(i)).build());
        }
    }

    private static String ids(Measurement measurement) {
        return measurement.getSpansList().stream().map(Span::getSpanId).collect(Collectors.joining(" "));
    }

    @Test
    public void whatArrivedIsNotSentAgain() {
        add(0, 2);
        assertEquals("0 1", ids(spool.take()));
        spool.confirm();
        spool.giveBack();
        assertEquals("", ids(spool.take()));
    }

    @Test
    public void whatMayBeLostComesFirst() {
        add(0, 2);
        spool.take();
        add(2, 3);
        spool.giveBack();
        assertEquals("0 1 2", ids(spool.take()));
    }

    @Test
    public void oneReplyTakesABoundedNumber() {
        add(0, 300);
        assertEquals(Spool.MAX_SENT, spool.take().getSpansCount());
        assertEquals(String.valueOf(Spool.MAX_SENT), spool.take().getSpans(0).getSpanId());
    }

    @Test
    public void theOldestGoAndAreCounted() {
        add(0, Spool.MAX_WAITING + 5);
        assertEquals(5, spool.lost());
        assertEquals("5", spool.take().getSpans(0).getSpanId());
    }
}
