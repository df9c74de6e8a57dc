package fedmeter.client;

import io.grpc.Grpc;
import io.grpc.ManagedChannelBuilder;

/** How a connection is made: the seam to a platform's transport. */
@FunctionalInterface
public interface Channels {
    /** gRPC's own, over whatever transport is there: grpc-okhttp in an Android app. */
    Channels GRPC = (address, security) -> Grpc.newChannelBuilder(address, security.credentials());

    /** Throws Precondition where certificates cannot be used. */
    ManagedChannelBuilder<?> builder(String address, Security security);
}
